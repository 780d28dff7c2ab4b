"""Running networks on data: what a checkpoint's loss is, and how it changes along a path."""

from rebasin_cli.evaluation.barrier import BarrierReport, Curve, barrier_above_line, barrier_above_mean
from rebasin_cli.evaluation.commands import parse_command, run_command
from rebasin_cli.evaluation.compatibility import check_examples, check_fits, fitting_loss
from rebasin_cli.evaluation.data import Dataset, Split, load_data
from rebasin_cli.evaluation.loaders import load_named
from rebasin_cli.evaluation.losses import Loss, check_name, find_loss
from rebasin_cli.evaluation.metrics import Maker, find_metrics
from rebasin_cli.evaluation.networks import FAMILIES, Network, build_network
from rebasin_cli.evaluation.networks.module_network import user_network
from rebasin_cli.evaluation.networks.pretrained import pretrained_network
from rebasin_cli.evaluation.scores import Scores
from rebasin_cli.evaluation.sweep import (
    DEFAULT_BATCH_SIZE,
    AnyNetwork,
    as_curve,
    evaluate,
    pair_runner,
    runner,
    sweep,
    targets_for,
)
from rebasin_cli.evaluation.text import load_masked_text, load_text
from rebasin_cli.evaluation.user_code import is_named, module_files

__all__ = [
    "DEFAULT_BATCH_SIZE",
    "FAMILIES",
    "AnyNetwork",
    "BarrierReport",
    "Curve",
    "Dataset",
    "Loss",
    "Maker",
    "Network",
    "Scores",
    "Split",
    "as_curve",
    "barrier_above_line",
    "barrier_above_mean",
    "build_network",
    "check_examples",
    "check_fits",
    "check_name",
    "evaluate",
    "find_loss",
    "find_metrics",
    "fitting_loss",
    "is_named",
    "load_data",
    "load_masked_text",
    "load_named",
    "load_text",
    "module_files",
    "pair_runner",
    "parse_command",
    "pretrained_network",
    "run_command",
    "runner",
    "sweep",
    "targets_for",
    "user_network",
]
