"""`--eval-server`: a program of the user's own that is started once, and answers line by line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rebasin_cli.errors import ContentError, UsageError
from rebasin_cli.evaluation.serving import EvaluationServer, parse_server
from tests.small import ROOT, environment

SERVER = """
import json, os, sys, time
open("starts", "a").write("x")
for line in sys.stdin:
    asked = json.loads(line)["checkpoint"]
    {answer}
    sys.stdout.flush()
"""


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def server(answer: str, timeout: float | None = 20) -> EvaluationServer:
    Path("serve.py").write_text(SERVER.format(answer=answer))
    return EvaluationServer(parse_server(f"{sys.executable} -S serve.py"), timeout)


def starts() -> int:
    return len(Path("starts").read_text())


def test_one_process_answers_all_questions() -> None:
    one = server('print(json.dumps({"loss": len(asked), "accuracy": 0.5, "top5": 0.9}))')
    for name in ("a", "bcd", 'q"\\ü'):
        scores = one.ask(Path(name))
        assert (scores.loss, scores.accuracy, scores.metrics) == (len(name), 0.5, {"top5": 0.9})
    assert starts() == 1
    one.close()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ('print("nothing of worth")', "answer is no figure: 'nothing of worth'"),
        ('print("")', "answer is empty"),
        ('print(json.dumps({"accuracy": 1}))', "has no number `loss` in it; it has `accuracy`"),
        ('print("1\\n2")', "printed more than its answer: '2"),
        ("sys.exit('no such model')", "ended with code 1: no such model"),
        ('raise ValueError("seven")', "ended with code 1: ValueError: seven"),
        ('print(json.dumps({"error": "out of range"}))', "answered with an error: out of range"),
        ('print("x" * (1 << 21), end="")', "answer has no end"),
    ],
)
def test_a_bad_answer_is_told_and_the_next_one_is_asked(answer: str, said: str) -> None:
    one = server(f'if asked == "bad":\n        {answer}\n    else:\n        print(0.25)')
    assert one.ask(Path("good")).loss == 0.25
    with pytest.raises(ContentError, match=r"(?s)evaluation server") as caught:
        one.ask(Path("bad"))
    assert said in caught.value.what
    assert one.ask(Path("good")).loss == 0.25
    assert starts() == (1 if "error" in answer else 2)
    one.close()


def test_a_late_line_is_no_answer_to_the_next_question() -> None:
    one = server('print(1, flush=True); time.sleep(0.2); print(2, flush=True); open("late", "w")')
    assert one.ask(Path("a")).loss == 1
    while not Path("late").exists():
        time.sleep(0.01)
    with pytest.raises(ContentError, match=r"printed more than its answer: '2"):
        one.ask(Path("b"))
    assert one.ask(Path("a")).loss == 1


def test_silence_ends_with_the_time_it_was_given() -> None:
    one = server("time.sleep(60)", timeout=0.5)
    with pytest.raises(ContentError, match=r"no answer in 0\.5 s") as caught:
        one.ask(Path("a"))
    assert "--eval-timeout" in caught.value.remedy


def test_it_ends_with_the_one_that_asks() -> None:
    one = server("print(os.getpid())")
    pid = int(one.ask(Path("a")).loss)
    del one
    assert _ends(pid)


def test_it_ends_when_its_parent_is_killed() -> None:
    server("print(os.getpid())")
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom rebasin_cli.evaluation.serving import EvaluationServer\n"
        f"one = EvaluationServer(({sys.executable!r}, '-S', 'serve.py'), 20)\n"
        "print(int(one.ask(Path('a')).loss), flush=True)\ntime.sleep(60)\n"
    )
    surroundings = environment() | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=surroundings) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        os.kill(pid, 0)
        parent.send_signal(signal.SIGKILL)
    assert _ends(pid)


@pytest.mark.parametrize("text", ["", "'", "no-such-program --serve"])
def test_what_cannot_be_started_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--eval-server"):
        parse_server(text)


def _ends(pid: int) -> bool:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
            return True
        time.sleep(0.05)
    return False
