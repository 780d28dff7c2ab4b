"""What a finished run is refused for: figures that could not be measured, or that a gate does not let pass."""

from __future__ import annotations

from rebasin_cli.errors import ContentError, GateError, UsageError
from rebasin_cli.report.document import RunDocument
from rebasin_cli.report.figures import loss_text
from rebasin_cli.report.worth import noticeably_above


def check_measured(document: RunDocument) -> None:
    """Answer points that could not be measured, once everything that was has been written.

    Raises:
        ContentError: naming the first of them.
    """
    if document.merge and document.merge.failures:
        failures = document.merge.failures
        place, why = next(iter(failures.items()))
        raise ContentError(
            f"{len(failures)} networks of the merge could not be measured; {place}: {why}",
            remedy="everything else was measured and written; judge a model by hand, to see what is wrong",
        )
    measured = document.barrier or document.plane
    failures = measured.failures if measured else {}
    what = "path" if document.barrier else "plane"
    if failures:
        place, why = next(iter(failures.items()))
        raise ContentError(
            f"{len(failures)} points of the {what} could not be measured; {place}: {why}",
            remedy="everything else was measured and written; --at LAM -o FILE writes such a point, to try it by hand",
        )


def check_gate(document: RunDocument, limit: float, better: str) -> None:
    """`--max-barrier`: the rise above the line between the ends, of the repaired path, or else the aligned one.

    Args:
        better: what may bring it down.

    Raises:
        GateError: it is higher than `limit`, or not a number.
    """
    barrier = document.barrier
    if barrier is None or barrier.best is None:
        raise UsageError("--max-barrier needs a barrier, and without data there is none", remedy="add --data FILE")
    name, curve = barrier.best
    if not curve.barrier <= limit:
        raise GateError(
            f"the {name} barrier is {loss_text(curve.barrier)}, above --max-barrier {limit:g}",
            where=f"largest loss above the line between the ends, {barrier.loss_unit}, {barrier.examples} examples",
            remedy=f"{better}; everything was written all the same",
        )


def check_worth(document: RunDocument, max_loss: float | None, at_least_as_good: bool) -> None:
    """`--max-loss` and `--at-least-as-good`: the loss of the merge that was written.

    Args:
        at_least_as_good: as its models are on average, by their weights. The best of them is chosen on the same
            examples, which makes it look better than it is.

    Raises:
        GateError: it is higher, or not a number.
    """
    verdict = document.verdict
    if verdict is None or verdict.loss is None or verdict.members is None:
        return
    remedy = "--polish least-squares, more --restarts or one of the models; everything was written all the same"
    if max_loss is not None and not verdict.loss <= max_loss:
        raise GateError(f"the merge's loss is {loss_text(verdict.loss)}, above --max-loss {max_loss:g}", remedy=remedy)
    if at_least_as_good and noticeably_above(verdict.loss, verdict.members):
        raise GateError(
            f"the merge's loss is {loss_text(verdict.loss)}, and that of its models {loss_text(verdict.members)} on "
            "average: it is not --at-least-as-good",
            remedy=remedy,
        )
