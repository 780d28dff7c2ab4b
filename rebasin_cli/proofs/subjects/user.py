"""A user's own network as a subject: `--network package.module:factory`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from rebasin_cli.errors import ContentError, UsageError
from rebasin_cli.evaluation.comparing import Trace, rounding
from rebasin_cli.evaluation.examples import guesses
from rebasin_cli.evaluation.given import GivenNetwork, NetworkName
from rebasin_cli.evaluation.networks.module_network import build_module, called
from rebasin_cli.evaluation.running import answers_of, in_dtype
from rebasin_cli.evaluation.user_code import call_named, import_named
from rebasin_cli.proofs.proof import Subject
from rebasin_cli.proofs.subjects.modules import module_subject, randomise

HELP = "the factory takes nothing and returns (module, inputs): an nn.Module and a tuple or dict of example inputs"


def user_subject(reference: NetworkName) -> Subject:
    """Import `package.module:factory`, call it, and make a subject of what it returns.

    Code is imported only because the user named it on the command line; the current folder is searched first.

    Raises:
        UsageError: the reference cannot be read or imported.
        ContentError: the factory fails, or does not return a module and its inputs.
    """
    made: Any
    if isinstance(reference, GivenNetwork):
        module, inputs = build_module(reference, {}, {})
        made = module, next((found for found, _ in guesses(module)), None) if inputs is None else inputs
    else:
        made = call_named("--network", reference, import_named("--network", reference, HELP))
    if isinstance(made, Subject):
        return made
    if not (isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], nn.Module)):
        raise ContentError(f"--network {reference}: the factory returned {called(made)}", remedy=HELP)
    module, inputs = made
    if isinstance(inputs, Tensor):
        inputs = (inputs,)
    if inputs is None:
        raise UsageError(
            f"--network {reference}: there is nothing to run the network on", remedy="name example inputs with --inputs"
        )
    if not isinstance(inputs, (Sequence, Mapping)):
        raise ContentError(f"--network {reference}: the inputs are a {type(inputs).__name__}", remedy=HELP)
    subject, errors = None, []
    for dtype in (torch.float64, torch.float32):
        subject, error = _tried(str(reference), randomise(module).to(dtype), in_dtype(inputs, dtype))
        if error is None:
            break
        errors.append(error)
    if subject is None:
        raise ContentError(
            f"--network {reference}: the network does not run on its inputs: {type(errors[-1]).__name__}: {errors[-1]}",
            remedy="it is run in evaluation mode, in float64 and then in float32; check the inputs of the factory",
        ) from errors[-1]
    if not subject.run(subject.state, None):
        raise ContentError(f"--network {reference}: there is no tensor of floats among the network's outputs")
    return subject


def _tried(reference: str, module: nn.Module, inputs: Any) -> tuple[Subject | None, Exception | None]:
    """A subject that knows its own rounding, or what it raised."""
    subject = module_subject(reference, module, inputs)

    def run(state: Mapping[str, Tensor], trace: Trace | None) -> Mapping[str, Tensor]:
        return answers_of(subject.run(state, trace))

    try:
        return replace(subject, run=run, tolerance=rounding(run, subject.state, run(subject.state, None))), None
    except Exception as error:
        return None, error
