"""One answer judge a file: what an answer gives away, whether it reads well, whether it declines."""
