"""One judge a file: which answers are unsafe."""
