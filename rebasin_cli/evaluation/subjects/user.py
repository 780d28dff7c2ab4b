"""A user's own network as a subject: `--network package.module:factory`."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from rebasin_cli.errors import ContentError, UsageError
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
    module_name, colon, factory_name = reference.partition(":")
    if not colon or not module_name or not factory_name:
        raise UsageError(f"--network {reference}: expected package.module:factory", remedy=HELP)
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        factory = getattr(importlib.import_module(module_name), factory_name)
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"--network {reference}: {error}", remedy="run from the folder that holds the module, or install it"
        ) from error
    try:
        made = factory()
    except Exception as error:
        raise ContentError(f"--network {reference}: the factory raised {type(error).__name__}: {error}") from error
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
