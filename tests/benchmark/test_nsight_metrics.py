"""Which of Nsight Compute's metrics are asked for, against the names that ncu itself lists for each architecture.

ncu_known_metrics.json: from `ncu --query-metrics --chips CHIP` of Nsight Compute 2025.3.1, the names in question.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT

from benchmark.nsight_metrics import OPERATIONS, QUANTITIES, choose
from common.errors import UserError

KNOWN = json.loads((Path(__file__).parent / "ncu_known_metrics.json").read_text(encoding="utf-8"))


def listing(names):
    """Lines as `ncu --query-metrics` prints them."""
    return ["Device NVIDIA Something (CHIP)", "-" * 40, "Metric Name   Metric Type  Metric Unit  Description"] + [
        f"{name:<60}Counter         inst            # of what is counted" for name in names
    ]


@pytest.mark.parametrize("chip", sorted(KNOWN))
def test_every_architecture_has_each_quantity(chip):
    chosen = choose(listing(KNOWN[chip]))
    assert all(name.split(".")[0] in KNOWN[chip] for name in chosen)
    quantities = [QUANTITIES[name] for name in chosen if name in QUANTITIES]
    assert sorted(quantities) == sorted(set(QUANTITIES.values()))
    fp16 = "sm__inst_executed_pipe_fp16" if chip in ("tu102", "ga100") else "sm__inst_executed_pipe_fma_type_fp16"
    assert f"{fp16}.avg.pct_of_peak_sustained_active" in chosen


@pytest.mark.parametrize("chip", sorted(KNOWN))
def test_no_operation_of_the_tensor_cores_is_counted_twice_and_no_format_of_training_is_left_out(chip):
    """A name without a destination counts what those with one count too."""
    chosen = [name.split(".")[0] for name in choose(listing(KNOWN[chip])) if name in OPERATIONS]
    for name in chosen:
        assert not [other for other in chosen if other != name and other.startswith(f"{name}_dst")], name
    for kind in ("fp16", "bf16", "tf32"):
        offered = [name for name in KNOWN[chip] if name.startswith("sm__ops_path_tensor_src_") and kind in name]
        taken = [name for name in chosen if name.startswith("sm__ops_path_tensor_src_") and kind in name]
        assert bool(taken) == bool(offered), kind


def test_a_fused_multiply_add_is_two_and_the_tensor_cores_count_that_themselves():
    weights = {name: weight for name, weight in OPERATIONS.items() if weight != 1}
    assert weights == {"sm__sass_thread_inst_executed_op_ffma_pred_on.sum": 2}


def test_operations_are_left_out_where_the_tensor_cores_are_not_counted():
    names = set(KNOWN["gh100"]) - {name for name in KNOWN["gh100"] if "path_tensor" in name}
    assert not set(choose(names)) & set(OPERATIONS)


def test_without_time_or_cycles_there_is_nothing_to_say():
    with pytest.raises(UserError, match=r"does not know gpu__time_duration\.sum and sm__cycles_elapsed\.max"):
        choose([])
    with pytest.raises(UserError, match=r"does not know sm__cycles_elapsed\.max here"):
        choose(["gpu__time_duration"])


def test_the_command_reads_ncus_list():
    program = [sys.executable, ROOT / "benchmark" / "nsight_metrics.py"]
    listed = "\n".join(listing(KNOWN["gh100"]))
    ended = subprocess.run(program, input=listed, capture_output=True, text=True, check=True)
    assert ended.stdout.strip().split(",") == choose(KNOWN["gh100"])
    ended = subprocess.run(program, input="==ERROR== no GPU", capture_output=True, text=True, check=False)
    assert ended.returncode != 0
    assert ended.stderr.startswith("error: ncu does not know gpu__time_duration.sum")
