"""One file a metric; the file's name is the metric's name."""
