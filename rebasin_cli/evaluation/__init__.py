"""Running networks on data: what a checkpoint's loss is, and how it changes along a path."""
