"""Notices that a process of the world has died, and ends the others, since torch alone lets them wait.

A collective in NCCL hangs when a peer is killed, so the main thread cannot be the one that notices. A thread in every
process therefore writes a counter, its beat, to the key-value store that rank 0 hosts. Rank 0 watches all beats, the
others watch rank 0's: the store is read N times per interval instead of N * N times, and all ranks name the same one.
A rank is lost when its beat stands still for `limit` seconds of the reader's own clock, in which the reader itself ran:
neither the clocks of the hosts nor a job that is suspended as a whole matter. Where rank 0 itself is frozen, torch's
calls to its store wait for an answer without an end; a second thread sets them one.
"""

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Callable

from torch.distributed import Store, TCPStore

from training.distributed.rendezvous import connect, wait_for

FINISHED, FAILED = "finished", "failed"
_VERDICT, _SUSPICION = "verdict", "suspicion"


def beat_key(rank: int) -> str:
    """Where a rank's beat stands in the store."""
    return f"beat/{rank}"


def prepare(store: Store, rank: int) -> None:
    """Write this rank's first beat: to be done before it announces itself, as reading a key that is not there waits."""
    store.set(beat_key(rank), "0")
    for key in (_VERDICT, _SUSPICION) if rank == 0 else ():
        store.set(key, "")


def end_process(sentence: str) -> None:
    """Print the sentence and end this process with status 1, although the main thread may hang in a collective."""
    print(f"error: {sentence}", file=sys.stderr, flush=True)
    os._exit(1)


class Heartbeat:
    """This rank's beat, and its eye on the others'. Every rank must have called `prepare` before.

    Args:
        store: of rank 0. It gets a connection of its own, since a call holds one until it is answered.
        rank: this process's.
        names: of every rank, in rank order: `rank 1 on host gamma`.
        limit: seconds without a beat after which a rank counts as lost.
        on_lost: called in the thread with the sentence that names the lost rank.
    """

    def __init__(
        self, store: TCPStore, rank: int, names: list[str], limit: float, on_lost: Callable[[str], None] = end_process
    ):
        self._store = connect(store.host, store.port, limit)
        self._rank, self._names, self._on_lost = rank, names, on_lost
        # Closes when rank 0's process ends. Looking there first spares users the stack traces that torch prints when
        # it is told to use a store that is gone.
        self._lifeline = socket.create_connection((store.host, store.port), timeout=limit)
        self._lifeline.setblocking(False)
        self._interval, self._limit = limit / 15, limit
        # What fails on all ranks is to be told by each: one that says itself that it failed is lost after a while only.
        self._grace = limit / 6
        self._ages = dict.fromkeys(range(1, len(names)) if rank == 0 else (0,), 0.0)  # seconds since a beat changed
        self._beats = dict.fromkeys(self._ages, "0")
        self._finish, self._found = threading.Event(), threading.Event()
        self._sentence: str | None = None
        self._asked = False
        self._n_looks = 0
        self._threads = [threading.Thread(target=self._run, name="heartbeat", daemon=True)]
        if rank != 0:
            self._threads.append(threading.Thread(target=self._guard, name="heartbeat-guard", daemon=True))
        for thread in self._threads:
            thread.start()

    def find_lost(self) -> str | None:
        """Name the rank whose loss the caller has felt, as a sentence; None where all beats go on.

        Waits for the beats to tell, on all ranks for a sixth of `limit` only, as there is evidence already. From now on
        the caller ends this process, and the heartbeat no longer does.
        """
        self._asked = True
        self._found.wait(self._store.timeout.total_seconds() / 2)
        return self._sentence

    def end(self, state: str) -> None:
        """Stop, and tell the others that this rank has FINISHED or FAILED."""
        self._finish.set()
        for thread in self._threads:
            thread.join(self._store.timeout.total_seconds())
        if not self._threads[0].is_alive():  # else it waits for the store's answer, and the next call would too
            self._mark(state)
        self._lifeline.close()

    def await_others(self, seconds: float) -> None:
        """On rank 0, wait until all ranks have ended: the store lives in its process, which must outlive theirs."""
        if self._rank == 0:
            keys = [beat_key(rank) for rank in self._ages]
            wait_for(lambda: {*map(bytes.decode, self._store.multi_get(keys))} <= {FINISHED, FAILED}, seconds)

    def _run(self) -> None:
        beat, last = 0, time.monotonic()
        while self._sentence is None:
            if self._finish.wait(self._interval):
                return
            beat, now = beat + 1, time.monotonic()
            try:
                self._sentence = self._look(beat, now - last)
            except (OSError, RuntimeError):  # torch's network errors are no class of their own on every path
                if self._finish.wait(0 if self._asked else self._grace):
                    return
                self._sentence = f"{self._names[0]} is gone: its process ended, or cannot be reached any more."
            last = now
            self._n_looks += 1
        self._found.set()
        if not (self._asked or self._finish.is_set()):
            self._mark(FAILED)
            self.await_others(2 * self._interval)  # for as long as they may need to read the verdict
            self._on_lost(self._sentence)

    def _guard(self) -> None:
        """Speak for a look that gets no answer."""
        silence, n_looks, last = 0.0, 0, time.monotonic()
        while not self._finish.wait(self._interval) and not self._found.is_set():
            now = time.monotonic()
            silence = silence + min(now - last, 2 * self._interval) if n_looks == self._n_looks else 0.0
            n_looks, last = self._n_looks, now
            if silence > self._limit + self._grace:
                self._sentence = f"{self._names[0]} is frozen or out of reach: no answer for {silence:.1f} seconds."
                self._found.set()
                if not self._asked:
                    self._on_lost(self._sentence)

    def _mark(self, state: str) -> None:
        with contextlib.suppress(OSError, RuntimeError):  # without a store no rank could read it
            self._set(beat_key(self._rank), state)

    def _set(self, key: str, value: str) -> None:
        with contextlib.suppress(BlockingIOError):
            if self._lifeline.recv(1) == b"":
                raise ConnectionResetError
        self._store.set(key, value)

    def _look(self, beat: int, elapsed: float) -> str | None:
        """Write and read beats once; the sentence that names a lost rank, whoever found it."""
        self._set(beat_key(self._rank), str(beat))
        if self._asked:
            self._store.set(_SUSPICION, "1")
        keys = [*map(beat_key, self._ages), _VERDICT, _SUSPICION]
        *beats, verdict, suspicion = map(bytes.decode, self._store.multi_get(keys))
        if verdict:
            return verdict
        if suspicion:
            self._limit, self._grace = 2.5 * self._interval, 0.0
        for rank, value in zip(self._ages, beats, strict=True):
            # Longer than two intervals only where this process itself was suspended: then so were the others, perhaps.
            age = self._ages[rank] + min(elapsed, 2 * self._interval) if value == self._beats[rank] else 0.0
            self._ages[rank], self._beats[rank] = age, value
            if value == FAILED and age > self._grace:
                sentence = f"{self._names[rank]} ended with an error; its own output says which."
            elif value not in (FINISHED, FAILED) and age > self._limit:
                sentence = f"{self._names[rank]} is gone: no sign of life for {age:.1f} seconds."
            else:
                continue
            self._store.set(_VERDICT, sentence)
            return sentence
        return None
