"""A scaling table: shares, added time and energy that were worked out by hand, and what else tells its rows apart."""

import pytest
from made_points import point

from benchmark.reports.scaling import scaling_rows, scaling_table


def measured(rate, step_seconds, n_gpus=1, figures=None, **changes):
    figures = {"step_seconds": step_seconds, "sequences_per_joule": 4.0} | (figures or {})
    return point(rate, measured=figures, n_gpus=n_gpus, flags="", **changes) | {"cuda_graphs": False, "side_by_side": 1}


def test_figures_are_those_worked_out_by_hand():
    parts = {"part_seconds": {"forward": 0.1, "reduction": 0.003}}
    ranks = {"ranks": [{"busy_seconds": 0.2}, {"busy_seconds": 0.25}]}
    two, one = measured(1900.0, 0.13, 2, parts | ranks), measured(1000.0, 0.12)
    first, second = scaling_rows([two, one])
    assert (first["n_gpus"], second["n_gpus"]) == (1, 2)
    assert (first["share_of_linear"], first["added_seconds"]) == (1.0, 0.0)
    assert (first["reduction_seconds"], first["rank_spread"]) == (None, None)
    assert second["sequences_per_second_per_gpu"] == 950.0
    assert second["share_of_linear"] == pytest.approx(0.95)
    assert second["added_seconds"] == pytest.approx(0.01)
    assert second["reduction_seconds"] == 0.003
    assert second["rank_spread"] == pytest.approx(0.25)
    assert second["joules_per_sequence"] == 0.25
    assert (second["workload"], second["settings"], second["micro_batch"]) == ("pretrain 128", "bf16", 64)


@pytest.mark.parametrize(
    "changes", [{"precision": "fp8"}, {"accumulation_steps": 4}, {"lengths": "evenly around 254"}, {"batch_size": 32}]
)
def test_other_work_on_one_gpu_is_no_base(changes):
    rows = list(scaling_rows([measured(1000.0, 0.1, **changes), measured(1900.0, 0.1, 2)]))
    assert [row["share_of_linear"] for row in rows] == [1.0, None]


def test_what_failed_has_a_row_and_no_share():
    failed = point(status="out_of_memory", n_gpus=2, flags="")
    table = scaling_table([measured(1000.0, 0.1), failed]).markdown()
    assert "| pretrain 128, bf16 |        1 x 64 |    2 |           - |" in table
    assert "| out of memory |" in table


def test_it_says_where_graphs_or_neighbors_tell_rows_apart():
    one, two = measured(1000.0, 0.1), measured(1900.0, 0.1, 2)
    assert len(scaling_table([one, two]).notes) == 2
    notes = scaling_table([one | {"cuda_graphs": True, "side_by_side": 8}, two]).notes[2:]
    assert notes[0].startswith("pretrain 128: CUDA graphs were recorded on some numbers of GPUs and not on others")
    assert "up to 8 at a time" in notes[1]
