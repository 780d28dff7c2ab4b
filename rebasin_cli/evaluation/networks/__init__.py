"""The networks that checkpoints are run with, as pure functions built from a spec's name and shapes."""

from rebasin_cli.evaluation.networks.network import Network
from rebasin_cli.evaluation.networks.options import Option
from rebasin_cli.evaluation.networks.registry import FAMILIES, Family, build_network

__all__ = ["FAMILIES", "Family", "Network", "Option", "build_network"]
