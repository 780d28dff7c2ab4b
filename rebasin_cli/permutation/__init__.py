"""Permutations: values, what they do to tensors, and the file that keeps one."""
