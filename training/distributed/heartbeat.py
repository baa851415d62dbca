"""Notices that a process of the world has died, and ends the others, since torch alone lets them wait.

A collective in NCCL hangs when a peer is killed, so the main thread cannot be the one that notices. A thread in every
process therefore writes a counter, its beat, to the key-value store that rank 0 hosts. Rank 0 watches all beats, the
others watch rank 0's: the store is read N times per interval instead of N * N times, and all ranks name the same one.
A rank is lost when its beat stands still for `limit` seconds of the reader's own clock, in which the reader itself ran:
neither the clocks of the hosts nor a job that is suspended as a whole matter.

That rank 0's process has ended shows in an idle connection to its store, which closes. Looking there first spares users
the stack traces that torch prints when it is told to use a store that is gone.
"""

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Callable

from torch.distributed import Store, TCPStore

FINISHED, FAILED = "finished", "failed"
_VERDICT, _SUSPICION = "verdict", "suspicion"


def beat_key(rank: int) -> str:
    """Where a rank's beat stands in the store."""
    return f"beat/{rank}"


def prepare(store: Store, rank: int) -> None:
    """Write this rank's first beat: to be done before it announces itself, as reading a key that is not there waits."""
    store.set(beat_key(rank), "0")
    if rank == 0:
        store.set(_VERDICT, "")
        store.set(_SUSPICION, "")


def end_process(sentence: str) -> None:
    """Print the sentence and end this process with status 1, although the main thread may hang in a collective."""
    print(f"error: {sentence}", file=sys.stderr, flush=True)
    os._exit(1)


class Heartbeat:
    """This rank's beat, and its eye on the others'. Every rank must have called `prepare` before.

    Args:
        store: a connection to rank 0's store that nobody else uses, since a call holds it until it is answered; its
            timeout is `limit` too.
        rank: this process's.
        hosts: host name of every rank, in rank order.
        limit: seconds without a beat after which a rank counts as lost.
        on_lost: called in the thread with the sentence that names the lost rank.
        launcher: process id of the parent where it is torchrun, without which nobody could end this process any more.
    """

    def __init__(
        self,
        store: TCPStore,
        rank: int,
        hosts: list[str],
        limit: float,
        on_lost: Callable[[str], None] = end_process,
        launcher: int | None = None,
    ):
        self._store, self._rank, self._hosts = store, rank, hosts
        self._lifeline = socket.create_connection((store.host, store.port), timeout=limit)
        self._lifeline.setblocking(False)
        self._limit = limit
        self._suspect_limit = limit / 6
        """In its place once a rank has evidence that another is lost."""
        self._grace = limit / 6
        """For a rank that says itself that it failed: what fails on all ranks is to be told by each, not by this."""
        self._interval = limit / 15
        self._on_lost, self._launcher = on_lost, launcher
        self._ages = dict.fromkeys(range(1, len(hosts)) if rank == 0 else (0,), 0.0)
        """Seconds since the beat of each watched rank changed."""
        self._beats = dict.fromkeys(self._ages, "0")
        self._finish = threading.Event()
        self._found = threading.Event()
        self._sentence: str | None = None
        self._asked = False
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    def find_lost(self) -> str | None:
        """Name the rank whose loss the caller has felt, as a sentence; None where all beats go on.

        Waits for the beats to tell, on all ranks for `limit / 6` only, as there is evidence already. From now on the
        caller ends this process, and the heartbeat no longer does.
        """
        self._asked = True
        self._found.wait(3 * self._suspect_limit)
        return self._sentence

    def end(self, state: str) -> None:
        """Stop, and tell the others that this rank has FINISHED or FAILED."""
        self._finish.set()
        self._thread.join(self._store.timeout.total_seconds())
        self._mark(state)
        self._lifeline.close()

    def await_others(self, seconds: float) -> None:
        """On rank 0, wait until all ranks have ended: the store lives in its process, which must outlive theirs."""
        if self._rank != 0:
            return
        deadline = time.monotonic() + seconds
        keys = [beat_key(rank) for rank in self._ages]
        while time.monotonic() < deadline:
            if all(beat.decode() in (FINISHED, FAILED) for beat in self._store.multi_get(keys)):
                return
            time.sleep(0.05)

    def _run(self) -> None:
        beat, last = 0, time.monotonic()
        while self._sentence is None and not self._finish.wait(self._interval):
            beat += 1
            now = time.monotonic()
            try:
                gone = self._host_ended()
                self._sentence = None if gone else self._look(beat, now - last)
            except RuntimeError:  # torch's network errors are no class of their own on every path
                gone = True
            if gone:
                if self._finish.wait(0 if self._asked else self._grace):
                    return
                self._sentence = f"{self._name(0)} is gone: its process ended, or cannot be reached any more."
            last = now
        if self._sentence is None:
            return
        self._found.set()
        if self._asked or self._finish.is_set():
            return
        self._mark(FAILED)
        self.await_others(2 * self._interval)  # for as long as they may need to read the verdict
        self._on_lost(self._sentence)

    def _mark(self, state: str) -> None:
        with contextlib.suppress(RuntimeError):  # without a store there is nobody who could read it
            if not self._host_ended():
                self._store.set(beat_key(self._rank), state)

    def _host_ended(self) -> bool:
        try:
            return self._lifeline.recv(1) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    def _look(self, beat: int, elapsed: float) -> str | None:
        """Write and read beats once; the sentence that names a lost rank, whoever found it."""
        self._store.set(beat_key(self._rank), str(beat))
        if self._asked:
            self._store.set(_SUSPICION, "1")
        *beats, verdict, suspicion = self._store.multi_get([*map(beat_key, self._ages), _VERDICT, _SUSPICION])
        if verdict:
            return verdict.decode()
        if self._launcher not in (None, os.getppid()):
            return (
                f"torchrun is gone (process {self._launcher} on host {self._hosts[self._rank]}), so its ranks end too."
            )
        if suspicion:
            self._limit, self._grace = self._suspect_limit, 0.0
        for rank, value in zip(self._ages, map(bytes.decode, beats), strict=True):
            # Longer than two intervals only where this process itself was suspended: then so were the others, perhaps.
            self._ages[rank] += min(elapsed, 2 * self._interval)
            if value != self._beats[rank]:
                self._ages[rank] = 0.0
            self._beats[rank] = value
        sentence = next(filter(None, map(self._complaint, self._ages)), None)
        if sentence is not None:
            self._store.set(_VERDICT, sentence)
        return sentence

    def _complaint(self, rank: int) -> str | None:
        age, beat = self._ages[rank], self._beats[rank]
        if beat == FAILED and age > self._grace:
            return f"{self._name(rank)} ended with an error; its own output says which."
        if beat not in (FINISHED, FAILED) and age > self._limit:
            return f"{self._name(rank)} is gone: no sign of life for {age:.1f} seconds."
        return None

    def _name(self, rank: int) -> str:
        return f"rank {rank} on host {self._hosts[rank]}"
