"""Align and merge neural networks by permuting their hidden units (Git Re-Basin, arXiv:2209.04836)."""

__version__ = "0.1.0"
