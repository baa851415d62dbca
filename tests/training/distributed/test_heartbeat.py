"""Several ranks' heartbeats in one process, over a real store: who is taken for lost, by whom, and when not."""

import contextlib
import os
import re
import socket
import threading
import time

import pytest
from ranks import run_ranks
from torch.distributed import TCPStore

from training.distributed import heartbeat
from training.distributed.heartbeat import FAILED, FINISHED, Heartbeat

NAMES = ["rank 0 on host alpha", "rank 1 on host beta", "rank 2 on host gamma"]
LIMIT = 1.5


class Beats:
    """A store, and the heartbeats of ranks that watch each other by it."""

    def __init__(self):
        self.server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self.lost: dict[int, list[str]] = {}
        self.ranks: dict[int, Heartbeat] = {}
        for rank in range(len(NAMES)):
            heartbeat.prepare(self.server, rank)

    def start(self, *ranks, limit=LIMIT):
        for rank in ranks:
            self.lost[rank] = []
            self.ranks[rank] = Heartbeat(self.server, rank, NAMES, limit, self.lost[rank].append)

    def close(self):
        for beats in self.ranks.values():
            beats.end(FINISHED)


@pytest.fixture
def beats():
    with contextlib.closing(Beats()) as beats:
        yield beats


def wait_until(condition, seconds=10.0):
    begin = time.monotonic()
    while not condition() and time.monotonic() < begin + seconds:
        time.sleep(0.02)
    return time.monotonic() - begin


def test_ranks_that_beat_are_not_lost(beats):
    beats.start(0, 1, 2)
    time.sleep(2 * LIMIT)
    assert beats.lost == {0: [], 1: [], 2: []}


def test_a_rank_without_beats_is_named_once_by_all_after_the_limit(beats):
    beats.start(0, 1)
    seconds = wait_until(lambda: all(beats.lost.values()))
    assert LIMIT < seconds < 2 * LIMIT
    for sentences in beats.lost.values():
        (sentence,) = sentences
        assert re.fullmatch(r"rank 2 on host gamma is gone: no sign of life for \d\.\d seconds\.", sentence)


def test_rank_0_without_beats_is_named(beats):
    beats.start(1, 2)
    wait_until(lambda: all(beats.lost.values()))
    assert [sentence.split(" is ")[0] for (sentence,) in beats.lost.values()] == ["rank 0 on host alpha"] * 2


def test_the_end_of_rank_0s_process_is_noticed_before_the_limit_and_without_torchs_stack_traces(capfd):
    beats = Beats()
    beats.start(1, 2, limit=6)
    with contextlib.closing(beats):
        del beats.server
        assert wait_until(lambda: all(beats.lost.values())) < 4
        for (sentence,) in beats.lost.values():
            assert sentence.startswith("rank 0 on host alpha is gone: its process ended")
    assert capfd.readouterr().err == ""


class Relay:
    """A port that passes bytes on to another, until it is frozen."""

    def __init__(self, port):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host, self.port = self._listener.getsockname()
        self._to, self.flows = port, threading.Event()
        self.flows.set()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            one, other = self._listener.accept()[0], socket.create_connection(("127.0.0.1", self._to))
            for ends in ((one, other), (other, one)):
                threading.Thread(target=self._pass_on, args=ends, daemon=True).start()

    def _pass_on(self, source, target):
        with contextlib.suppress(OSError):
            while data := source.recv(4096):
                self.flows.wait()
                target.sendall(data)


def test_a_frozen_rank_0_is_named_by_all_and_nobody_waits_for_it(beats):
    relay = Relay(beats.server.port)
    lost = {1: [], 2: []}
    first, _ = (Heartbeat(relay, rank, NAMES, LIMIT, lost[rank].append) for rank in lost)
    for _ in range(3):
        time.sleep(0.1)
        beats.server.set(heartbeat.beat_key(0), str(time.monotonic()))
    relay.flows.clear()
    assert wait_until(lambda: all(lost.values())) > LIMIT / 2
    for (sentence,) in lost.values():
        assert re.fullmatch(r"rank 0 on host alpha is frozen or out of reach: no answer for \d\.\d seconds\.", sentence)
    begin = time.monotonic()
    first.end(FAILED)
    assert time.monotonic() - begin < 4
    relay.flows.set()


def test_a_finished_rank_is_not_lost(beats):
    beats.start(0, 1, 2)
    beats.ranks[2].end(FINISHED)
    beats.ranks[0].end(FINISHED)
    time.sleep(1.5 * LIMIT)
    assert not any(beats.lost.values())


def test_a_failed_rank_is_named_after_a_moment_in_which_the_others_may_tell_their_own_error(beats):
    beats.start(0, 1, 2, limit=6)
    beats.ranks[2].end(FAILED)
    seconds = wait_until(lambda: beats.lost[0] and beats.lost[1])
    assert 1 < seconds < 5
    assert beats.lost[0] == beats.lost[1] == ["rank 2 on host gamma ended with an error; its own output says which."]


def test_evidence_shortens_the_wait_on_every_rank_and_leaves_the_end_to_who_has_it(beats):
    beats.start(0, 1, limit=6)
    begin = time.monotonic()
    assert beats.ranks[1].find_lost().startswith("rank 2 on host gamma is gone")
    assert time.monotonic() - begin < 4
    wait_until(lambda: beats.lost[0])
    assert beats.lost[0][0].startswith("rank 2 on host gamma is gone")
    assert beats.lost[1] == []


def test_evidence_against_nobody_names_nobody(beats):
    beats.start(0, 1, 2)
    begin = time.monotonic()
    assert beats.ranks[1].find_lost() is None
    assert time.monotonic() - begin < LIMIT
    assert not any(beats.lost.values())


def test_a_process_that_was_suspended_itself_does_not_take_the_others_for_dead(beats, monkeypatch):
    beats.start(0, 1)  # rank 2's beat stands still, as that of a rank that wakes a moment later
    clock, offset = time.monotonic, [0.0]
    monkeypatch.setattr(heartbeat.time, "monotonic", lambda: clock() + offset[0])
    time.sleep(LIMIT / 5)
    offset[0] = 1000.0
    time.sleep(LIMIT / 5)
    assert not any(beats.lost.values())
    assert wait_until(lambda: beats.lost[0]) > 0


def test_rank_0_waits_for_the_others_last_words_but_not_for_ever(beats):
    beats.start(0, 1, 2)
    beats.ranks[1].end(FAILED)
    beats.ranks[0].end(FINISHED)
    begin = time.monotonic()
    beats.ranks[0].await_others(0.3)
    assert time.monotonic() - begin >= 0.3
    beats.ranks[2].end(FINISHED)
    begin = time.monotonic()
    beats.ranks[0].await_others(30)
    beats.ranks[1].await_others(30)
    assert time.monotonic() - begin < 5


def end_while_main_thread_hangs():
    threading.Timer(0.2, heartbeat.end_process, ["rank 7 is gone."]).start()
    os.read(os.pipe()[0], 1)


def test_the_process_ends_although_its_main_thread_hangs():
    (outcome,) = run_ranks(end_while_main_thread_hangs, 1, seconds=10)
    assert (outcome.status, outcome.output) == (1, "error: rank 7 is gone.\n")
