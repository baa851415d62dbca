"""A board that training never waits for.

Training must not wait for a server, nor end because one is away. So a thread opens the board and hands it what the log
gets; one that fails, or falls far behind, costs what it would have shown and one sentence.
"""

import importlib
import queue
import textwrap
import threading
from collections.abc import Callable, Mapping
from typing import Any

from common.addresses import without_secrets
from training.metrics.boards import SECONDS_TO_CLOSE, Kind, Place

MOST_WAITING = 10_000  # lines that a board may be behind
LONGEST_REASON = 200  # characters of what a package says of its failure


class BoardThread:
    """A board of this kind, opened and told from a thread. `say` gets the sentence where it fails."""

    def __init__(self, kind: Kind, place: Place, say: Callable[[str], None]):
        self._kind, self._say = kind, say
        self._is_lost = False
        self._waiting: queue.SimpleQueue = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._draw, args=(place,), name=kind.title, daemon=True)
        try:
            importlib.import_module(kind.module)  # here: two threads that import may see half of a module
        except Exception as error:
            self._lose(error)
        else:
            self._thread.start()

    def parameters(self, values: Mapping[str, Any]) -> None:
        """As `Board.parameters`; returns at once and raises nothing, as the next two."""
        self._tell("parameters", values)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._tell("scalars", step, values)

    def close(self) -> None:
        """Wait for what is told, but no longer than `SECONDS_TO_CLOSE`."""
        if self._is_lost:
            return
        self._waiting.put(None)
        self._thread.join(SECONDS_TO_CLOSE)
        if self._thread.is_alive():
            self._lose(f"it did not take everything within {SECONDS_TO_CLOSE} s")

    def _tell(self, *what: Any) -> None:
        if self._is_lost:
            return
        self._waiting.put(what)
        if self._waiting.qsize() > MOST_WAITING:
            self._waiting.put(None)
            self._lose(f"it is {MOST_WAITING:,} lines behind")

    def _draw(self, place: Place) -> None:
        try:
            board = self._kind.open(importlib.import_module(self._kind.module), place)
            while (told := self._waiting.get()) is not None:
                method, *arguments = told
                getattr(board, method)(*arguments)
            board.close()
        except Exception as error:
            self._lose(error)

    def _lose(self, why: object) -> None:
        if not self._is_lost:
            self._is_lost = True
            reason = without_secrets(str(why)).splitlines()[:1] or [type(why).__name__]
            reason = textwrap.shorten(reason[0].partition(". ")[0], LONGEST_REASON)
            self._say(f"warning: {self._kind.title} shows no more of this run ({reason}); the log goes on")
