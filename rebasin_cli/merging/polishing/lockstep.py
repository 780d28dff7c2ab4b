"""Networks that run side by side and stop at the same calls: each in a thread, of which one runs at a time.

What a network keeps alive at a call is all that is in memory of it: a layer's activations, and streams that go on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor

from rebasin_cli.errors import ContentError
from rebasin_cli.merging.polishing.calls import Arguments, Watch


class _Ended(BaseException):
    """Ends a thread that waits within a network."""


class Walker:
    """A run of a network that stops at calls of which it is told the numbers, in ascending order.

    Args:
        run: runs it, and returns what it answers.
        kept: numbers of calls whose results are kept until `forget`.
    """

    def __init__(self, run: Callable[[], Any], kept: Collection[int] = ()) -> None:
        self._run, self._kept = run, frozenset(kept)
        self._results: dict[int, Tensor] = {}
        self._stop: int | None = None
        self._name = ""
        self._wants_result = False
        self._found: Any = None
        self._error: BaseException | None = None
        self._go, self._came = threading.Semaphore(0), threading.Semaphore(0)
        self._ending = False
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def before(self, number: int, name: str) -> Arguments:
        """Go on to a call of this name, and return its arguments; it is made when this goes on."""
        self._advance(number, name, wants_result=False)
        found: Arguments = self._taken(number, tuple)
        return found

    def behind(self, number: int, name: str) -> Tensor:
        """Go on until a call of this name is made, and return its result."""
        self._advance(number, name, wants_result=True)
        found: Tensor = self._taken(number, Tensor)
        return found

    def result(self, number: int) -> Tensor:
        """What a kept call made."""
        return self._results[number]

    def forget(self, number: int) -> None:
        """Keep the result of a call no longer."""
        self._results.pop(number, None)

    def finish(self) -> Any:
        """Go on to the end, and return the answer."""
        self._advance(None, "", wants_result=False)
        return self._found

    def end(self) -> None:
        """Stop for good; may be called at any time."""
        self._ending = True
        self._go.release()
        self._thread.join()
        self._results.clear()

    def _advance(self, number: int | None, name: str, wants_result: bool) -> None:
        self._stop, self._name, self._wants_result, self._found = number, name, wants_result, None
        self._go.release()
        self._came.acquire()
        if self._error is not None:
            raise self._error

    def _taken(self, number: int, kind: type) -> Any:
        if not isinstance(self._found, kind):
            raise ContentError(
                f"the network did not make its call number {number} on all examples, which it made on the first ones",
                remedy="a network that goes other ways for other inputs is not polished; --repair takes it as it is",
            )
        found, self._found = self._found, None
        return found

    def _work(self) -> None:
        try:
            self._wait()
            with torch.no_grad(), Watch(self._on_call):
                self._found = self._run()
        except _Ended:
            return
        except BaseException as error:  # shown by whoever waits
            self._error = error
        self._came.release()

    def _wait(self) -> None:
        self._go.acquire()
        if self._ending:
            raise _Ended

    def _pause(self, found: Any) -> None:
        self._found = found
        self._came.release()
        del found
        self._wait()

    def _on_call(
        self, number: int, name: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if number == self._stop and not self._wants_result:
            self._pause((args, kwargs) if name == self._name else None)
        result = func(*args, **kwargs)
        if number in self._kept:
            self._results[number] = result
        if number == self._stop and self._wants_result:
            self._pause(result if name == self._name else None)
        return result
