"""Solvers: which unit of B belongs where. Pure over mappings of tensors; they know neither files nor terminals.

Read `reference` first: the paper's loop on one page. Every method takes a problem, resources and options of its own,
and returns a `MatchResult`.
"""

from rebasin_cli.matching.assignment.solve import Assignment, solve_assignment
from rebasin_cli.matching.data.activations import ActivationOptions, match_by_activations
from rebasin_cli.matching.data.straight_through import SteOptions, match_by_straight_through
from rebasin_cli.matching.descent.weights import WeightsOptions, match_by_weights
from rebasin_cli.matching.objective import Distance, inner_product, measure_distance
from rebasin_cli.matching.portfolio import best_of, descents
from rebasin_cli.matching.problem import ActivationProblem, LossProblem, Problem, Resources
from rebasin_cli.matching.relaxation.frank_wolfe import FrankWolfeOptions, frank_wolfe_attempts, match_by_frank_wolfe
from rebasin_cli.matching.relaxation.sinkhorn import (
    SinkhornLossOptions,
    SinkhornOptions,
    match_by_sinkhorn,
    match_by_sinkhorn_loss,
    sinkhorn_attempts,
)
from rebasin_cli.matching.result import MatchResult, StopMatching, Trial

__all__ = [
    "ActivationOptions",
    "ActivationProblem",
    "Assignment",
    "Distance",
    "FrankWolfeOptions",
    "LossProblem",
    "MatchResult",
    "Problem",
    "Resources",
    "SinkhornLossOptions",
    "SinkhornOptions",
    "SteOptions",
    "StopMatching",
    "Trial",
    "WeightsOptions",
    "best_of",
    "descents",
    "frank_wolfe_attempts",
    "inner_product",
    "match_by_activations",
    "match_by_frank_wolfe",
    "match_by_sinkhorn",
    "match_by_sinkhorn_loss",
    "match_by_straight_through",
    "match_by_weights",
    "measure_distance",
    "sinkhorn_attempts",
    "solve_assignment",
]
