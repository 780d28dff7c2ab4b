"""A user's own network as a subject: `--network package.module:factory`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from rebasin_cli.errors import ContentError
from rebasin_cli.evaluation.named import call_named, import_named
from rebasin_cli.evaluation.proving import Subject
from rebasin_cli.evaluation.subjects.modules import module_subject, randomise

HELP = "the factory takes nothing and returns (module, inputs): an nn.Module and a tuple or dict of example inputs"


def user_subject(reference: str) -> Subject:
    """Import `package.module:factory`, call it, and make a subject of what it returns.

    Code is imported only because the user named it on the command line; the current folder is searched first.

    Raises:
        UsageError: the reference cannot be read or imported.
        ContentError: the factory fails, or does not return a module and its inputs.
    """
    made = call_named("--network", reference, import_named("--network", reference, HELP))
    if isinstance(made, Subject):
        return made
    if not (isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], nn.Module)):
        raise ContentError(f"--network {reference}: the factory returned {type(made).__name__}", remedy=HELP)
    module, inputs = made
    if isinstance(inputs, Tensor):
        inputs = (inputs,)
    if not isinstance(inputs, (Sequence, Mapping)):
        raise ContentError(f"--network {reference}: the inputs are a {type(inputs).__name__}", remedy=HELP)
    subject = module_subject(reference, randomise(module), _double(inputs))
    try:
        outputs = subject.run(subject.state, None)
    except Exception as error:
        raise ContentError(
            f"--network {reference}: the network does not run on its inputs: {type(error).__name__}: {error}",
            remedy="it is run in float64 and in evaluation mode; check the inputs that the factory returns",
        ) from error
    if not outputs:
        raise ContentError(f"--network {reference}: there is no tensor of floats among the network's outputs")
    return subject


def _double(inputs: Any) -> Any:
    if isinstance(inputs, Tensor):
        return inputs.double() if inputs.is_floating_point() else inputs
    if isinstance(inputs, Mapping):
        return {key: _double(value) for key, value in inputs.items()}
    if isinstance(inputs, (list, tuple)):
        return tuple(_double(value) for value in inputs)
    return inputs
