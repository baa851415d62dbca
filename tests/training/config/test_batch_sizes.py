"""Four flags and a number of processes, and what they come to."""

import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import Problems
from training.config.batch_sizes import BatchSizes, resolve_batch_sizes


def resolve(world_size=1, fits=32, **flags):
    names = ("train_batch_size", "global_batch_size", "gradient_accumulation_steps", "micro_batch_size")
    given = types.SimpleNamespace(**{name: flags.get(name) for name in names})
    problems, batches = Problems(), None

    def fitting(batch_size):
        return max((size for size in range(1, fits + 1) if batch_size % size == 0), default=None)

    with problems.collect():
        batches = resolve_batch_sizes(given, world_size, fitting)
    return batches, [str(problem) for problem in problems.found]


@pytest.mark.parametrize(
    ("world_size", "flags", "expected"),
    [
        (1, {}, (32, 1, 32)),
        (4, {}, (32, 1, 128)),
        (1, {"train_batch_size": 65536, "gradient_accumulation_steps": 256}, (256, 256, 65536)),
        (8, {"train_batch_size": 8192, "gradient_accumulation_steps": 32}, (256, 32, 65536)),
        (8, {"global_batch_size": 65536, "micro_batch_size": 256}, (256, 32, 65536)),
        (2, {"global_batch_size": 65536, "micro_batch_size": 256}, (256, 128, 65536)),
        (8, {"global_batch_size": 65536}, (32, 256, 65536)),
        (3, {"global_batch_size": 63}, (21, 1, 63)),
        (1, {"train_batch_size": 12, "micro_batch_size": 4, "gradient_accumulation_steps": 3}, (4, 3, 12)),
    ],
)
def test_batches_worked_by_hand(world_size, flags, expected):
    batches, problems = resolve(world_size, **flags)
    assert problems == []
    assert (batches.micro, batches.accumulation_steps, batches.overall) == expected


@pytest.mark.parametrize(
    ("world_size", "flags", "sentence"),
    [
        (
            1,
            {"train_batch_size": 30, "gradient_accumulation_steps": 4},
            "_size 30 is not a multiple of --gradient",
        ),
        (
            1,
            {"train_batch_size": 30, "micro_batch_size": 4},
            "_size 30 is not a multiple of --micro_batch",
        ),
        (
            2,
            {"global_batch_size": 60, "micro_batch_size": 4},
            "share 30 is not a multiple of --micro_batch",
        ),
        (3, {"global_batch_size": 64}, "--global_batch_size 64 cannot be divided among 3 processes"),
        (1, {"global_batch_size": 64, "train_batch_size": 64}, "give one of the two"),
        (1, {"train_batch_size": 8, "micro_batch_size": 4, "gradient_accumulation_steps": 3}, "is 12, not --train"),
        (1, {"fits": 0}, "not even one sequence fits"),
    ],
)
def test_what_comes_to_nothing_is_one_sentence(world_size, flags, sentence):
    batches, (found,) = resolve(world_size, **flags)
    assert batches is None
    assert sentence in found
    assert found.endswith(".")


def test_values_below_one_are_not_complained_of_twice():
    assert resolve(train_batch_size=0) == (None, [])


@given(world_size=st.integers(1, 16), per_process=st.integers(1, 4096), fits=st.integers(1, 300), stated=st.booleans())
def test_batches_always_add_up(world_size, per_process, fits, stated):
    flags = {"global_batch_size": per_process * world_size} if stated else {"train_batch_size": per_process}
    batches, problems = resolve(world_size, fits, **flags)
    assert problems == []
    assert batches.overall == per_process * world_size == batches.micro * batches.accumulation_steps * world_size
    assert batches.micro <= fits


def test_a_line_that_can_be_checked_against_a_paper():
    line = "global batch 65,536 = micro-batch 256 x 32 accumulated x 8 processes"
    assert str(BatchSizes(world_size=8, micro=256, accumulation_steps=32)) == line
