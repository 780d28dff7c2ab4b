"""Making one checkpoint out of several that have been aligned."""

from rebasin_cli.merging.interpolation import (
    check_lambda,
    interpolate_tensor,
    interpolated,
    lambda_grid,
)

__all__ = ["check_lambda", "interpolate_tensor", "interpolated", "lambda_grid"]
