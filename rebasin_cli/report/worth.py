"""What a merge is worth, in one line: by what was measured of it, or without data by how alike its models are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite

from rebasin_cli.report.figures import loss_text
from rebasin_cli.report.measurements import ENSEMBLE, ScoreRecord, VerdictRecord

_RELATIVE, _ABSOLUTE = 1e-5, 1e-6
"""Two losses that differ by less are one: sums in another order of units differ by rounding."""

ALIKE, FAR = 0.9, 0.5
"""Cosines between models in one order, from which on a merge is likely to be good, and below which it is likely bad.

Networks trained apart had .27 to .47 and their merge was worse than every one of them; those that had the beginning of
their training in common had .98 and more, and their merge was as good as they are. Nothing was found in between."""


def judge(scores: Mapping[str, ScoreRecord], models: Sequence[str], weights: Sequence[float]) -> VerdictRecord:
    """What the last of the networks is worth beside its models and their ensemble.

    Args:
        scores: of every network by name, `models` and perhaps `ENSEMBLE` among them; the last is the merge.
        weights: of the models; they sum to 1. Their mean loss is by them, as that of a single model that is drawn.
    """
    losses = [scores[name].loss for name in models]
    merged = list(scores.values())[-1].loss
    members = sum(weight * loss for weight, loss in zip(weights, losses, strict=True))
    ensemble = scores[ENSEMBLE].loss if ENSEMBLE in scores else None
    gain = members - ensemble if ensemble is not None else 0.0
    kept = (members - merged) / gain if gain > _noise(members) else None
    bad, text = _in_words(merged, members, losses, ensemble, kept)
    return VerdictRecord(text, bad, "losses", merged, members, ensemble, kept)


def _in_words(
    merged: float, members: float, losses: Sequence[float], ensemble: float | None, kept: float | None
) -> tuple[bool, str]:
    """Whether the merge is bad, and the line."""
    best, worst = min(losses), max(losses)
    figures = f"loss {loss_text(merged)}, its models {loss_text(members)} on average"
    if ensemble is not None:
        figures += f", their ensemble {loss_text(ensemble)}"
    if not isfinite(members):
        return True, f"a model has no finite loss, so that nothing can be said of the merge ({loss_text(merged)})"
    if not isfinite(merged):
        return True, "the merge has no finite loss: do not use it"
    if merged > worst + _noise(worst):
        return True, f"worse than every model: do not use it ({figures}, the worst {loss_text(worst)})"
    if merged > members + _noise(members):
        return True, f"worse than its models on average: take one of them, the best has {loss_text(best)} ({figures})"
    if kept is not None:
        share = f"keeps {100 * kept:.0f} % of what the ensemble gains over a single model"
        said = "as good as the ensemble of its models, or better" if kept >= 1 else share
    elif ensemble is not None:
        said = "as good as a single model, and the ensemble gains nothing over one"
    else:
        said = "as good as its models on average, or better"
    better = f"; the best model alone has {loss_text(best)}" if best < merged - _noise(best) else ""
    return False, f"{said} ({figures}{better})"


def judge_unmeasured(cosines: Sequence[float], fitted: bool = False) -> VerdictRecord:
    """What can be expected of a merge of models with these cosines in one order, pair by pair; nothing was measured.

    See `ALIKE` and `FAR`. Of a merge that was `fitted` to its models cosines tell nothing.
    """
    least = min(cosines)
    between = f"{'the two' if len(cosines) == 1 else 'the least alike two'} have a cosine of {least:.2f} in one order"
    if fitted and not least >= ALIKE:
        bad, said = False, "fitted to its models, and how near it came only data tell"
    elif not least >= FAR:
        bad, said = True, "likely worse than every model"
    elif least < ALIKE:
        bad, said = True, "it may be worse than every model, which only data tell"
    else:
        bad, said = False, "likely about as good as its models"
    return VerdictRecord(f"not measured, {said}: {between}; --data FILE measures it", bad, "cosines", cosine=least)


def noticeably_above(loss: float, limit: float) -> bool:
    """Whether a loss is above another by more than rounding, or is none."""
    return not loss <= limit + _noise(limit)


def _noise(loss: float) -> float:
    return _RELATIVE * abs(loss) + _ABSOLUTE
