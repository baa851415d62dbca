"""benchmark/reduction.py on two ranks of a CPU: a row for each way."""

import pytest
import torch
from ranks import run_ranks
from torch import nn

from benchmark import reduction
from common.errors import UserError
from training.distributed.world import World

FLAGS = [
    "--batch_size",
    "1",
    "--max_seq_length",
    "16",
    "--max_predictions_per_seq",
    "2",
    "--steps",
    "1",
    "--windows",
    "1",
]


def run_rank(arguments):
    reduction.main(arguments)


def test_each_way_has_a_row():
    outcomes = run_ranks(run_rank, 2, FLAGS)
    assert [outcome.status for outcome in outcomes] == [0, 0], "\n".join(outcome.output for outcome in outcomes)
    first, second = (outcome.output for outcome in outcomes)
    assert "|" not in second
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in first.splitlines() if line.startswith("|")][2:]
    assert [row[0] for row in rows] == ["alone", "unsent", "beside", "after"]  # CPUs have no copy engines
    assert rows[0][2:] == ["0.00", "0.00", "100.0%"]
    assert all(float(row[1]) > 0 for row in rows)
    assert all((float(row[3]) > 0) == (row[0] != "alone") for row in rows)


def test_gradients_are_averaged_in_the_given_dtype(monkeypatch):
    given = []
    monkeypatch.setattr(reduction, "average", lambda bucket, reduce_dtype: given.append(reduce_dtype))
    args = reduction.parse_arguments(["--reduce_dtype", "bf16"])
    reduction.maker_of("beside", args, World(size=2), torch.device("cpu"))([nn.Parameter(torch.ones(3))]).reduce()
    assert given == ["bf16"]


def test_copy_engines_are_refused_where_they_do_not_work():
    args = reduction.parse_arguments(["--ways", "alone", "engines"])
    with pytest.raises(UserError, match="leave engines out of --ways"):
        reduction.ways_here(args, World(size=2), torch.device("cpu"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="of CPUs")
@pytest.mark.parametrize("flag", ["--cuda_graphs", "--fp8"])
def test_what_needs_a_gpu_is_refused_without_one(monkeypatch, flag):
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "0"), ("MASTER_ADDR", "localhost"), ("MASTER_PORT", "1234")):
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"{flag}.*need an NVIDIA GPU"):
        reduction.main([flag])


def test_one_process_has_nobody():
    with pytest.raises(UserError, match="start with torchrun"):
        reduction.main([])
