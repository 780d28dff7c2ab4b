"""Running networks on data: what a checkpoint's loss is, and how it changes along a path."""

from rebasin_cli.evaluation.barrier import BarrierReport, Curve, barrier_above_line, barrier_above_mean
from rebasin_cli.evaluation.data import Dataset, Split, load_data
from rebasin_cli.evaluation.fitting import check_fits
from rebasin_cli.evaluation.networks import FAMILIES, Network, build_network
from rebasin_cli.evaluation.sweep import DEFAULT_BATCH_SIZE, evaluate, runner, sweep

__all__ = [
    "DEFAULT_BATCH_SIZE",
    "FAMILIES",
    "BarrierReport",
    "Curve",
    "Dataset",
    "Network",
    "Split",
    "barrier_above_line",
    "barrier_above_mean",
    "build_network",
    "check_fits",
    "evaluate",
    "load_data",
    "runner",
    "sweep",
]
