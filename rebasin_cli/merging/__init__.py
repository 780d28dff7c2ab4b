"""Making one checkpoint out of several that have been aligned."""
