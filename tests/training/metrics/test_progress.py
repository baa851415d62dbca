"""Lines about a run's steps, with a clock that the test turns."""

import math

import pytest

from common.work import Work
from training.metrics.progress import Progress, evaluation_line, span

STEP = Work(n_sequences=1024, sum_lengths=131_072)  # full sequences of 128 tokens


class Clock:
    """Stands still until it is told."""

    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def take(progress, clock, n_steps, seconds, work=STEP):
    for _ in range(n_steps):
        clock.now += seconds
        progress.end_step(work)


def test_a_line_tells_the_speed_since_the_last_one_and_the_time_left(clock):
    progress = Progress("phase 1", 7038, 7038, clock=clock)
    take(progress, clock, 1, 60.0)  # compiles
    assert progress.line(1, 10.94) == "phase 1 | step 1/7,038 | loss 10.9"
    take(progress, clock, 24, 0.5)
    # 1,024 sequences in half a second; 7,013 steps are left, 3,506.5 s.
    assert progress.line(25, 8.2345) == "phase 1 | step 25/7,038 | loss 8.23 | 2,048 seq/s | 0.26 M tok/s | ETA 58 min"
    take(progress, clock, 25, 5.0)
    # 6,988 steps of 5 s are 34,940 s: 9 h 42 min 20 s.
    assert progress.line(50, 7.0) == "phase 1 | step 50/7,038 | loss 7.00 | 205 seq/s | 26,214 tok/s | ETA 9 h 42 min"


def test_evaluations_and_checkpoints_do_not_slow_the_figures(clock):
    progress = Progress("SQuAD", 40, 40, clock=clock)
    with progress.paused():  # before the first line
        clock.now += 1000
    take(progress, clock, 1, 1.0)
    progress.line(1, 1.0)
    take(progress, clock, 5, 2.0)
    with progress.paused():
        clock.now += 1000
    take(progress, clock, 5, 2.0)
    assert progress.line(11, 0.03124) == "SQuAD | step 11/40 | loss 0.0312 | 512 seq/s | 65,536 tok/s | ETA 58 s"


def test_all_ranks_count_and_a_target_may_end_the_run_before(clock):
    progress = Progress("phase 2", 30, 20, may_end_before=True, world_size=8, clock=clock)
    progress.line(11, 2.0)
    take(progress, clock, 1, 1.0, Work(n_sequences=1, sum_lengths=100))
    # To step 20, where this run ends.
    assert progress.line(12, 2.0) == "phase 2 | step 12/30 | loss 2.00 | 8.00 seq/s | 800 tok/s | ETA 8.0 s at most"


def test_the_last_step_has_no_time_left_and_a_line_without_steps_no_speed(clock):
    progress = Progress("GLUE MRPC", 2, 2, clock=clock)
    progress.line(1, 1.0)
    take(progress, clock, 1, 1.0)
    assert progress.line(2, math.nan).endswith("| loss nan | 1,024 seq/s | 0.13 M tok/s")
    assert progress.line(2, 1.0) == "GLUE MRPC | step 2/2 | loss 1.00"


def test_a_skipped_step_says_why():
    assert Progress("phase 1", 1000, 1000).skipped_line(26, 524288.0, 3) == (
        "phase 1 | step 26/1,000 | skipped, its gradient is not finite | loss scale 524,288 | 3 skipped so far"
    )


def test_scores_on_the_way():
    words = {"masked LM": "14.63 % right, loss 6.2001", "next sentence": "55.10 % right, loss 0.6900"}
    assert evaluation_line(1700, words) == (
        "held-out | step 1,700 | masked LM 14.63 % right, loss 6.2001 | next sentence 55.10 % right, loss 0.6900"
    )


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0123, "0.012 s"),
        (0.04, "0.040 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (99, "99 s"),
        (99.6, "2 min"),
        (3569, "59 min"),
        (3571, "1 h 0 min"),
        (33_120, "9 h 12 min"),
        (47 * 3600 + 59 * 60, "47 h 59 min"),
        (50 * 3600, "2 d 2 h"),
    ],
)
def test_a_time_has_its_two_largest_units(seconds, words):
    assert span(seconds) == words
