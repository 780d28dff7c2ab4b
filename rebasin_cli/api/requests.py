"""From keywords to the options of `pipeline`: only what was given is passed on, so that defaults stand there alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rebasin_cli.api.models import GivenModel, first_module
from rebasin_cli.errors import UsageError
from rebasin_cli.evaluation.given import GivenData, GivenLoss, GivenNetwork, NetworkName
from rebasin_cli.evaluation.options import check_name, parse_moments
from rebasin_cli.pipeline.data_request import DataRequest
from rebasin_cli.pipeline.layouts import SpecChoice
from rebasin_cli.pipeline.method_choice import METHODS, MatchChoice, match_choice

if TYPE_CHECKING:
    from torch import Tensor, nn

    from rebasin_cli.permutation.files import SavedPermutation

Keywords = Mapping[str, Any]

_OF_METHODS = {field.name for method in METHODS for field in fields(method.options)} - {"max_sweeps", "patience"}
_OF_CHOICE = {"seed", "max_sweeps", "device", "on_interrupt", "threads", "cluster"}
_OF_DATA = ("split", "limit", "fit_batch_size", "sequence_length", "image_size", "normalise")
_REPAIR_EXAMPLES = 2000  # as `rebasin repair` takes
_OF_JUDGE = ("batch_size", "metric", "repair", "eval_timeout")
_OF_LINE = ("ensemble", "calibrate")


def spec_choice(given: Keywords) -> SpecChoice:
    """`spec`, `set`, `freeze`, `ignore` and `symmetry`."""
    named: dict[str, Any] = {}
    spec = given.get("spec")
    if isinstance(spec, str | os.PathLike):
        named["arch"] = os.fspath(spec)
    elif spec is not None:
        text = getattr(spec, "text", None)
        if not isinstance(text, str):
            raise UsageError(
                f"spec is a {type(spec).__name__}", remedy="pass the name or the file of one, or what derive() returned"
            )
        named |= {"arch": f"<{spec.name}>.yaml", "text": text}
    for keyword, field, kind in (
        ("set", "sizes", dict), ("freeze", "freeze", tuple), ("ignore", "ignore", tuple), ("symmetry", "symmetry", str),
    ):  # fmt: skip
        if given.get(keyword) is not None:
            named[field] = kind(given[keyword])
    return SpecChoice(**named)


def matching(given: Keywords) -> MatchChoice:
    """How to match.

    Raises:
        UsageError: an option that the method does not read, or an amount of time or memory that is none.
    """
    from rebasin_cli.pipeline.quantities import parse_bytes, parse_duration

    common = {name: given[name] for name in _OF_CHOICE if given.get(name) is not None}
    if given.get("time_budget") is not None:
        common["time_budget"] = parse_duration(str(given["time_budget"]))
    if given.get("memory") is not None:
        common["memory"] = parse_bytes(str(given["memory"]))
    named = {"method": given["method"]} if given.get("method") is not None else {}
    return match_choice(**named, given={name: given.get(name) for name in sorted(_OF_METHODS)}, **common)


def network_of(given: Keywords, models: Iterable[GivenModel] = ()) -> NetworkName | None:
    """The network that is named, or the code of the first module.

    Raises:
        UsageError: it is no module, or inputs without a network.
    """
    network, inputs = given.get("network"), given.get("inputs")
    if isinstance(network, str):
        if inputs is not None:
            raise UsageError(
                f"inputs= go with a module, and network={network} returns its own", remedy="leave them away"
            )
        return network
    module = first_module(models) if network is None else network
    if module is not None:
        return given_network(module, inputs)
    if inputs is not None:
        raise UsageError("inputs= are for a network, and there is none", remedy="add network=MODULE, or pass modules")
    return None


def given_network(module: nn.Module, inputs: Any = None) -> GivenNetwork:
    """A module, with what it can be run on: a tensor, a tuple, a dict of keywords, or sizes as `--inputs` has them.

    Raises:
        UsageError: it is no module.
    """
    from torch import nn

    if not isinstance(module, nn.Module):
        what = "a class" if isinstance(module, type) else f"a {type(module).__name__}"
        raise UsageError(
            f"network is {what}", remedy="pass a module (call what builds it), or 'package.module:function'"
        )
    if isinstance(inputs, str):
        from rebasin_cli.evaluation.examples import parse_inputs

        inputs = parse_inputs(inputs)
    elif isinstance(inputs, list):
        inputs = tuple(inputs)
    return GivenNetwork(type(module).__name__, module, inputs)


def network_request(given: Keywords, models: Iterable[GivenModel]) -> DataRequest | None:
    """The network alone; None if there is none."""
    network = network_of(given, models)
    options = given.get("network_option")
    if network is None:
        _refuse({"network_option": options}, "is for a network, and there is none", "add network=MODULE")
        return None
    return DataRequest(network=network, options=dict(options or {}))


def fitted(given: Keywords, models: Iterable[GivenModel], choice: MatchChoice) -> DataRequest | None:
    """What a method is shown, and what B is run on before and after; None if there is neither data nor a network.

    Raises:
        UsageError: an option that nothing reads then.
    """
    found = _common(given, models, choice)
    if given.get("data") is None:
        _refuse_of_data(given)
    else:
        found["path"] = found["fit"] = examples(given["data"])
        _take(found, given, {"split": "fit_split", "limit": "fit_limit"})
    if given.get("loss") is not None:
        check_name(given["loss"])
        if not choice.goes_down_a_loss:
            raise UsageError(f"loss={given['loss']}: method={choice.method} goes down no loss")
        found["loss"] = given["loss"]
    return DataRequest(**found) if found.keys() & {"path", "network"} else None


def judged(
    given: Keywords,
    models: Iterable[GivenModel],
    choice: MatchChoice,
    judge: Callable[[Mapping[str, Tensor]], Any] | None,
) -> DataRequest | None:
    """What networks are judged by and fitted on; None if there is neither, and no network.

    Args:
        judge: a function of the user's, by the tensors of a network.

    Raises:
        UsageError: an option that nothing reads then.
    """
    found = _common(given, models, choice)
    repair = given.get("repair")
    repairs = (repair,) if isinstance(repair, str) else tuple(dict.fromkeys(repair or ()))
    has_loss = given.get("data") is not None or _program(given) is not None or judge is not None
    polish = given.get("polish")
    fits = choice.looks_at_data or repairs or polish is not None or given.get("calibrate")
    if not fits:
        _refuse(
            {n: given.get(n) for n in ("fit_data", "fit_limit")},
            "is for what is fitted on examples",
            "add repair=, polish= or calibrate=True",
        )
    if not has_loss:
        named = {n: given.get(n) for n in _OF_JUDGE} | {n: given.get(n) or None for n in _OF_LINE}
        _refuse(named, "is for a loss, and there is none", "add data= or loss=")
        if given.get("fit_data") is None:
            _refuse_of_data(given)
    if polish is not None:
        if given.get("data") is None and given.get("fit_data") is None:
            raise UsageError("polish= fits weights on examples, and there are none", remedy="add fit_data= or data=")
        found["polish"] = polish
    if given.get("polish_steps") is not None and polish != "distill":
        raise UsageError("polish_steps= are those of distillation", remedy="add polish='distill'")
    if judge is not None:
        name = getattr(given["loss"], "__qualname__", type(given["loss"]).__name__)
        found["judge"] = GivenLoss(judge, name)
    elif given.get("loss") is not None:
        check_name(given["loss"])
        if given.get("data") is None and not choice.goes_down_a_loss and polish is None:
            raise UsageError(f"loss={given['loss']!r} judges examples, and there are none", remedy="add data=")
        found["loss"] = given["loss"]
    for keyword, field in (("data", "path"), ("fit_data", "fit")):
        if given.get(keyword) is not None:
            found[field] = examples(given[keyword])
    if given.get("metric") is not None:
        found["metrics"] = tuple(given["metric"])
    if repairs:
        found["repairs"] = repairs
    names = ("split", "limit", "batch_size", "fit_limit", "polish_steps", *_OF_LINE)
    _take(found, given, {**{n: n for n in names}, "eval_timeout": "timeout"})
    if (program := _program(given)) is not None:
        found |= {"command": program, "serves": given.get("eval_server") is not None}
    return DataRequest(**found) if found.keys() & {"path", "fit", "network", "command", "judge"} else None


def repairing(given: Keywords, models: Iterable[GivenModel]) -> DataRequest:
    """What a merged network is run on to be repaired.

    Raises:
        UsageError: a loss that none has, or steps without distillation.
    """
    if given.get("polish_steps") is not None and given.get("polish") != "distill":
        raise UsageError("polish_steps= are those of distillation", remedy="add polish='distill'")
    check_name(given.get("loss"))
    found = _common(given, models, MatchChoice())
    found |= {"path": examples(given["data"]), "split": "train", "limit": _REPAIR_EXAMPLES}
    _take(found, given, {n: n for n in ("split", "limit", "loss", "polish", "polish_steps")})
    return DataRequest(**found)


def _program(given: Keywords) -> str | None:
    """The command that judges, if there is one.

    Raises:
        UsageError: there are two.
    """
    command, server = given.get("eval_command"), given.get("eval_server")
    if command is not None and server is not None:
        raise UsageError("eval_command= and eval_server= are two judges", remedy="leave one of them away")
    return server if command is None else command


def examples(value: Any) -> Path | GivenData:
    """`data=`: a path, `package.module:function`, or examples in memory."""
    if isinstance(value, str | os.PathLike):
        return Path(value)
    return GivenData(list(value) if isinstance(value, Iterator) else value)  # it may be read twice


def permutation_of(value: Any) -> Path | SavedPermutation:
    """A permutation as it is handed over: a path, one in memory, or an alignment.

    Raises:
        UsageError: it is none of these.
    """
    from rebasin_cli.api.alignment import Alignment
    from rebasin_cli.api.permutations import UnitPermutation

    if isinstance(value, str | os.PathLike):
        return Path(value)
    if isinstance(value, Alignment):
        value = value.permutation
    if isinstance(value, UnitPermutation):
        return value.saved
    raise UsageError(
        f"permutation is a {type(value).__name__}", remedy="pass what align() found, its .permutation, or a file of one"
    )


def _common(given: Keywords, models: Iterable[GivenModel], choice: MatchChoice) -> dict[str, Any]:
    """The network, and how its inputs are prepared."""
    found: dict[str, Any] = {"seed": choice.seed}
    network = network_of(given, models)
    if network is not None:
        found["network"] = network
    if given.get("network_option") is not None:
        found["options"] = dict(given["network_option"])
    if given.get("tap"):
        if choice.method != "activations":
            raise UsageError(f"tap=: method={choice.method} looks at no activations", remedy="add method='activations'")
        found["taps"] = dict(given["tap"])
    if given.get("normalise") is not None:
        found["moments"] = parse_moments(given["normalise"])
    _take(
        found, given,
        {"sequence_length": "sequence_length", "image_size": "image_size", "fit_batch_size": "fit_batch"},
    )  # fmt: skip
    return found


def _take(found: dict[str, Any], given: Keywords, names: Mapping[str, str]) -> None:
    found.update({field: given[name] for name, field in names.items() if given.get(name) is not None})


def _refuse_of_data(given: Keywords) -> None:
    _refuse({name: given.get(name) for name in _OF_DATA}, "is for examples, and there are none", "add data=")


def _refuse(given: Mapping[str, Any], why: str, remedy: str) -> None:
    for name, value in given.items():
        if value is not None:
            raise UsageError(f"{name}= {why}", remedy=remedy)
