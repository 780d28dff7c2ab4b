"""What holds for all tests."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# No test asserts a time, and neither does Hypothesis: what it takes depends on what else the machine does.
settings.register_profile("no-times", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("no-times")

# A shell that runs its jobs in the background lets them ignore Ctrl-C, and so would every process that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

LONG = (
    "test_torture.py",
    "test_wheel.py",
    "test_demo.py",
    "test_files.py",
    "test_processes.py",
)  # minutes in processes


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest tests, or one of them is all that is left for one worker while the others rest."""
    items.sort(key=lambda item: item.path.name not in LONG)


@pytest.fixture(autouse=True, scope="session")
def state_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder of the tests' own, for this process and those it starts."""
    folder = tmp_path_factory.mktemp("state")
    os.environ["XDG_STATE_HOME"] = str(folder)
    return folder
