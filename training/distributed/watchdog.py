"""Ends a process whose optimizer step takes far too long, with the stack of each of its threads.

A rank that waits in a collective for another, which waits for a file, looks alive to the heartbeat. Torch ends such a
wait after half an hour, and says which collective it was, not what the other rank did. So each rank watches its own
steps: a hang shows on all of them at about the same time, and the ranks' stacks side by side show who does something
else.
"""

import contextlib
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator

LEAST_SECONDS = 600.0  # a step may compile code for a new shape, or wait for a file system that is busy
TIMES_THE_MEAN = 20.0
SECONDS_FOR_OTHERS = 5.0  # to print their stacks before they notice that this process has ended
SECONDS_BETWEEN_LOOKS = 1.0


class Watchdog:
    """Watches the steps of this process, from `step_begins` to the next or to the end of `watching`.

    Args:
        limit: the seconds that a step may take; None: 20 times the mean of the steps so far, at least ten minutes;
            0: any.
        on_hang: called in the thread with a sentence, once.
    """

    def __init__(self, limit: float | None = None, on_hang: Callable[[str], None] | None = None):
        self._limit, self._on_hang = limit, on_hang or _end_with_stacks
        self._n_steps, self._began = 0, 0.0
        self._age, self._allowed = 0.0, None  # seconds of the step that runs; None: none does
        self._over = threading.Event()

    @contextlib.contextmanager
    def watching(self) -> Iterator["Watchdog"]:
        """Context of a loop of steps."""
        thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._over.set()
            thread.join()

    def step_begins(self) -> None:
        """The step before, if any, is done."""
        if self._limit == 0:
            return
        now = time.monotonic()
        self._began = self._began or now
        mean = (now - self._began) / self._n_steps if self._n_steps else 0.0
        self._n_steps += 1
        self._allowed = self._limit or max(LEAST_SECONDS, TIMES_THE_MEAN * mean)
        self._age = 0.0

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside (a checkpoint, an evaluation) may take as long as it likes."""
        allowed, self._allowed = self._allowed, None
        yield
        self._age, self._allowed = 0.0, allowed

    def _watch(self) -> None:
        last = time.monotonic()
        while not self._over.wait(SECONDS_BETWEEN_LOOKS):
            now = time.monotonic()
            # A process that was suspended as a whole did not hang meanwhile.
            self._age += min(now - last, 2 * SECONDS_BETWEEN_LOOKS)
            last, allowed = now, self._allowed
            if allowed is not None and self._age > allowed:
                self._on_hang(f"step {self._n_steps} of this process has run for more than {allowed:,.0f} seconds")
                return


def _end_with_stacks(sentence: str) -> None:
    rank = os.environ.get("RANK", "0")
    print(
        f"error: rank {rank}: {sentence}, so the run ends; compare the stacks of all ranks: the one that does "
        "something else keeps the others waiting.",
        file=sys.stderr,
        flush=True,
    )
    faulthandler.dump_traceback(all_threads=True)
    time.sleep(SECONDS_FOR_OTHERS)
    os._exit(1)
