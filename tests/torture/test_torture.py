"""A sample of `make torture`: of every attack some attempts."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.small import ROOT, environment


def test_a_sample_of_attacks_finds_nothing_that_must_not_be() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.torture", "--sample", "--json"],
        cwd=ROOT, env=environment(), capture_output=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    rows = json.loads(done.stdout)
    assert {row["attack"].partition(":")[0] for row in rows} == {"hostile", "mutated", "fault"}
    assert sum(row["attempts"] for row in rows) >= 60
    assert [finding for row in rows for finding in row["findings"] if finding["hard"]] == []
    for row in rows:
        codes = [f for f in row["findings"] if f["what"].startswith("exit code")]
        assert codes == [], row["attack"]
