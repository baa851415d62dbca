"""Signals become one stop that all ranks make at the same micro-batch, and the old handlers come back."""

import os
import signal
import time

import pytest
import torch
from ranks import run_ranks

from training.distributed.stop_signal import REQUEUE_EXIT_CODE, SIGNALS, StopSignal
from training.distributed.world import World, connected, read_world

LIMIT = 1.5


def handlers():
    return [signal.getsignal(number) for number in SIGNALS]


@pytest.mark.parametrize("number", SIGNALS)
def test_alone_a_signal_is_seen_at_once(number):
    with StopSignal(World()) as stop:
        assert (stop.received, stop.agreed()) == (None, False)
        os.kill(os.getpid(), number)
        assert (stop.received, stop.agreed()) == (number.name, True)
        assert stop.agreed()


def test_the_first_signals_name_is_kept():
    with StopSignal(World()) as stop:
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.received == "SIGUSR1"


def test_handlers_are_put_back_after_success_and_failure():
    def mine(number, frame):
        raise AssertionError("not while StopSignal is there")

    before = signal.signal(signal.SIGTERM, mine)
    try:
        expected = handlers()
        with StopSignal(World()):
            assert mine not in handlers()
            os.kill(os.getpid(), signal.SIGTERM)
        assert handlers() == expected
        with pytest.raises(ZeroDivisionError), StopSignal(World()):
            raise ZeroDivisionError
        assert handlers() == expected
    finally:
        signal.signal(signal.SIGTERM, before)


def test_the_exit_code_is_the_one_that_says_try_again():
    assert os.EX_TEMPFAIL == REQUEUE_EXIT_CODE


def connect():
    return connected(read_world(), torch.device("cpu"), 30, heartbeat_limit=LIMIT)


def vote(calls, signalled_rank, signalled_call):
    with connect() as world, StopSignal(world) as stop:
        for call in range(calls):
            time.sleep(0.02 * world.rank)
            if (world.rank, call) == (signalled_rank, signalled_call):
                os.kill(os.getpid(), signal.SIGTERM)
            if stop.agreed():
                break
        print(call, stop.received)


@pytest.mark.parametrize("signalled_rank", [0, 2])
def test_all_ranks_stop_at_the_call_after_the_one_that_saw_the_signal(signalled_rank):
    outcomes = run_ranks(vote, 3, 20, signalled_rank, 5)
    for rank, outcome in enumerate(outcomes):
        assert (outcome.status, outcome.output) == (0, f"6 {'SIGTERM' if rank == signalled_rank else None}\n")


def test_without_a_signal_all_calls_are_made_and_the_last_vote_harms_nobody():
    for outcome in run_ranks(vote, 3, 20, None, None):
        assert (outcome.status, outcome.output) == (0, "19 None\n")


def vote_late():
    with connect() as world, StopSignal(world) as stop:
        world.barrier()
        time.sleep(world.rank)
        begin = time.monotonic()
        assert not stop.agreed()
        first = time.monotonic() - begin
        begin = time.monotonic()
        assert not stop.agreed()
        print(first < 0.5, time.monotonic() - begin < 0.5)


def test_a_vote_waits_for_nobody_but_the_one_before_it_does():
    punctual, late = run_ranks(vote_late, 2)
    assert (punctual.output, late.output) == ("True False\n", "True True\n")


def vote_and_be_killed():
    with connect() as world, StopSignal(world) as stop:
        for call in range(1000):
            if (world.rank, call) == (1, 20):
                os.kill(os.getpid(), signal.SIGKILL)
            assert not stop.agreed()
            time.sleep(0.01)


def test_a_rank_lost_during_a_vote_is_named():
    survivor, _ = run_ranks(vote_and_be_killed, 2)
    assert survivor.status in (1, 2)
    assert "rank 1 on host" in survivor.output
    assert survivor.output.count("error: ") == 1
    assert survivor.seconds < 15
