"""Making one checkpoint out of several that have been aligned."""

from rebasin_cli.merging.channel_statistics import (
    Channels,
    Repaired,
    measure_channels,
    repair_channels,
    reset_statistics,
)
from rebasin_cli.merging.interpolation import (
    LINE,
    Blend,
    Combine,
    check_lambda,
    interpolate_tensor,
    interpolated,
    lambda_grid,
)

__all__ = [
    "LINE",
    "Blend",
    "Channels",
    "Combine",
    "Repaired",
    "check_lambda",
    "interpolate_tensor",
    "interpolated",
    "lambda_grid",
    "measure_channels",
    "repair_channels",
    "reset_statistics",
]
