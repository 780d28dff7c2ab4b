"""The former place of what is imported here."""

from rebasin_cli.pipeline.sweep import check_gate, check_measured

__all__ = ["check_gate", "check_measured"]
