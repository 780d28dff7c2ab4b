"""The table of all claims, as Markdown and as one HTML file."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from math import isnan

from tests.paper.outcome import Claim, Outcome


@dataclass(frozen=True)
class Row:
    """A claim with what came out of it.

    Attributes:
        seconds: of a processor, of all that it needs: training and commands, also what another row made before.
        again: the verdicts with other seeds, by seed.
    """

    claim: Claim
    outcome: Outcome
    seconds: float
    again: Mapping[int, str] = field(default_factory=dict)

    def seeds(self) -> str:
        """Which other seeds have the same verdict, and what the others have."""
        same = [str(seed) for seed, told in self.again.items() if told == self.outcome.verdict]
        others = [f"{seed}: {told}" for seed, told in self.again.items() if told != self.outcome.verdict]
        return "; ".join([*([f"{', '.join(same)}: the same"] if same else []), *others]) or "–"


def summary(rows: Sequence[Row]) -> str:
    """`12 shown, 3 shown with limits, …`."""
    counts = Counter(row.outcome.verdict for row in rows)
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())


def steadiness(rows: Sequence[Row]) -> str:
    """In how many rows all seeds agree; empty if there is one seed alone."""
    seeds = sorted({seed for row in rows for seed in row.again})
    if not seeds:
        return ""
    same = sum(set(row.again.values()) <= {row.outcome.verdict} for row in rows)
    return f" With seeds {', '.join(map(str, seeds))}, too, {same} of {len(rows)} have the same verdict each time."


def markdown(rows: Sequence[Row], how: str) -> str:
    """A table with a line for each claim, and the rules below it; `how`: data, machine and command in a sentence."""
    columns = ("#", "where", "claim", "the paper", "here", "verdict", "other seeds", "processor time")
    lines = [
        "# Git Re-Basin, claim by claim", "",
        f"{how} {summary(rows)}.{steadiness(rows)}", "",
        f"| {' | '.join(columns)} |", "|---" * len(columns) + "|",
    ]  # fmt: skip
    for row in rows:
        claim = row.claim
        cells = (
            str(claim.number), claim.where, claim.says, claim.paper, row.outcome.figures, f"**{row.outcome.verdict}**",
            row.seeds(), time_text(row.seconds),
        )  # fmt: skip
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    lines += ["", "## The rules", ""]
    lines += [f"{row.claim.number}. {row.claim.rule}" for row in rows]
    return "\n".join(lines) + "\n"


def time_text(seconds: float) -> str:
    """Seconds of a processor; a dash where they are not known."""
    return "–" if isnan(seconds) else f"{seconds:.0f} s"


_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
h1 { font-size: 1.6rem } h2 { font-size: 1.1rem; margin: 2.2rem 0 .3rem }
.verdict { font-weight: 600; padding: .1rem .5rem; border-radius: .3rem; background: #ddd }
.shown { background: #cfe8d5 } .limits { background: #f6e7b8 } .not { background: #f3c9c9 }
.refuted { background: #d8d2f0 }
dl { display: grid; grid-template-columns: 7rem 1fr; gap: .2rem 1rem; margin: .4rem 0 } dt { color: #666 }
dd { margin: 0 }
figure { margin: 1rem 0; break-inside: avoid } img { max-width: 100% } figcaption { color: #555; font-size: .9rem }
"""


def html(rows: Sequence[Row], how: str) -> str:
    """One self-contained page: a section for each claim, with its pictures."""
    parts = [
        '<!doctype html><html lang="en"><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>Git Re-Basin, claim by claim</title><style>{_STYLE}</style>",
        f"<h1>Git Re-Basin, claim by claim</h1><p>{escape(how)} {escape(summary(rows))}.{escape(steadiness(rows))}</p>",
    ]
    for row in rows:
        claim, outcome = row.claim, row.outcome
        mark = "limits" if "limits" in outcome.verdict else outcome.verdict.split()[0]
        parts.append(
            f'<section><h2>{claim.number}. {escape(claim.says)} <span class="verdict {mark}">{escape(outcome.verdict)}'
            "</span></h2><dl>"
        )
        told = {
            "where": claim.where, "the paper": claim.paper, "here": outcome.figures, "the rule": claim.rule,
            "other seeds": row.seeds(), "processor time": time_text(row.seconds),
        }  # fmt: skip
        parts += [f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in told.items()]
        parts.append("</dl>")
        for caption, svg in outcome.pictures:
            data = base64.b64encode(svg.encode()).decode()
            parts.append(
                f'<figure><img alt="{escape(caption)}" src="data:image/svg+xml;base64,{data}">'
                f"<figcaption>{escape(caption)}</figcaption></figure>"
            )
        parts.append("</section>")
    return "\n".join(parts) + "\n"
