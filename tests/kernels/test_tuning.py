"""kernels/tuning.py: whatever the settings, the values are the same; and the table has what kernels ask it for."""

import pytest
import torch
from tuned import tune

from benchmark.workloads.tuned_kernels import Step, workloads
from kernels import tuning
from models.config import BertConfig
from models.memory import LOGIT_ROWS

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CONFIG = BertConfig(
    64, hidden_size=16, num_hidden_layers=1, num_attention_heads=1, intermediate_size=24, max_position_embeddings=8
)
# Of each kernel settings that cut this small step otherwise than those in use do.
OTHERS = {
    "adam_pass": {"chunk": 512, "tile": 256, "num_warps": 1, "maxnreg": 128},
    "lamb_second_pass": {"tile": 256, "num_warps": 2},
    "column_sums": {"block_rows": 64, "block_columns": 32, "num_warps": 4, "maxnreg": 128},
    "cross_entropy": {"rows_per_block": 2},
}


@pytest.mark.parametrize("kernel", tuning.DEFAULTS)
def test_other_settings_give_the_same_values(kernel, monkeypatch):
    make = workloads()[kernel].make
    step = Step(CONFIG, 40, torch.float32, DEVICE)
    expected, asked = make(step)(), []
    if kernel == "adam_pass":
        tune(monkeypatch, "lamb_second_pass", tile=256)  # which divides the chunk too
    tune(monkeypatch, kernel, **OTHERS[kernel])
    changed = tuning.row
    monkeypatch.setattr(tuning, "row", lambda device: asked.append(device) or changed(device))
    found = make(step)()
    assert asked
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)


def test_every_kernel_of_the_table_can_be_tuned_and_its_grid_has_the_settings_in_use():
    found = workloads()
    assert found.keys() == OTHERS.keys() == tuning.DEFAULTS.keys()
    for kernel, workload in found.items():
        for setting, values in workload.grid.items():
            assert tuning.DEFAULTS[kernel][setting] in values, kernel


@pytest.mark.parametrize("capability", tuning.ROWS)
def test_rows_say_what_kernels_take(capability):
    row = tuning.row_of(capability)
    assert row.keys() == tuning.DEFAULTS.keys()
    for kernel, settings in row.items():
        assert settings.keys() == tuning.DEFAULTS[kernel].keys(), kernel
        assert all(type(number) is int and number > 0 for number in settings.values()), kernel
    for kernel in ("adam_pass", "lamb_second_pass"):
        assert row["adam_pass"]["chunk"] % row[kernel]["tile"] == 0
    assert row["cross_entropy"]["rows_per_block"] <= LOGIT_ROWS


def test_a_gpus_row_comes_before_the_defaults(monkeypatch):
    monkeypatch.setattr(tuning, "ROWS", {(8, 6): {"column_sums": {"block_rows": 256}}})
    tuning.row.cache_clear()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, device.index))
    try:
        assert tuning.settings("column_sums", torch.device("cuda", 6)) == {"block_rows": 256}
        for device in (torch.device("cuda", 0), torch.device("cpu"), torch.device("meta")):
            assert tuning.settings("column_sums", device) == tuning.DEFAULTS["column_sums"]
    finally:
        tuning.row.cache_clear()


def test_what_is_returned_is_the_callers_own():
    mine = tuning.settings("column_sums", DEVICE)
    mine.pop("block_rows")
    assert "block_rows" in tuning.settings("column_sums", DEVICE)


def test_a_class_of_inputs_has_settings_of_its_own(monkeypatch):
    monkeypatch.setattr(tuning, "row", lambda device: {"pass": {"tile": 1}, "pass fp8": {"tile": 2}})
    assert tuning.settings("pass", DEVICE) == {"tile": 1}
    assert tuning.settings("pass", DEVICE, "fp8") == {"tile": 2}
    with pytest.raises(KeyError):
        tuning.settings("pass", DEVICE, "fp32")
