"""Solvers: which unit of B belongs where. Pure over mappings of tensors; they know neither files nor terminals."""

from rebasin_cli.matching.assignment import Assignment, solve_assignment
from rebasin_cli.matching.frank_wolfe import frank_wolfe, frank_wolfe_attempts
from rebasin_cli.matching.measures import Distance, inner_product, measure_distance
from rebasin_cli.matching.restarts import best_of, descents
from rebasin_cli.matching.result import Enough, MatchResult, Trial
from rebasin_cli.matching.sinkhorn import match_sinkhorn, sinkhorn_attempts
from rebasin_cli.matching.weights import match_weights

__all__ = [
    "Assignment",
    "Distance",
    "Enough",
    "MatchResult",
    "Trial",
    "best_of",
    "descents",
    "frank_wolfe",
    "frank_wolfe_attempts",
    "inner_product",
    "match_sinkhorn",
    "match_weights",
    "measure_distance",
    "sinkhorn_attempts",
    "solve_assignment",
]
