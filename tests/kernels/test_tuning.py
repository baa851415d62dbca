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
LONG = ("forward_blocks", "backward_queries", "backward_keys")
GELU_GRADIENT = {"elements": 256, "num_warps": 1, "blocks_per_multiprocessor": 1, "stages": 4}
NORM_GRADIENTS = {"block_rows": 4, "num_warps": 8, "blocks_per_multiprocessor": 2, "stages": 4}
KINDS = ("", "/fp8", "/fp8_alone", "/fp8_alone_narrow")
OTHER_BLOCKS = {"block_queries": 32, "block_keys": 128, "num_warps": 4, "num_stages": 1, "maxnreg": 255}
# Of each kernel settings that cut this small step otherwise than those in use do.
OTHERS = {
    "gelu": {"elements": 256, "num_warps": 1},
    **dict.fromkeys((f"gelu_gradient{kind}" for kind in KINDS), GELU_GRADIENT),
    "dropout_add_norm": {"block_rows": 8, "num_warps": 1},
    **dict.fromkeys((f"dropout_add_norm_gradients{kind}" for kind in KINDS), NORM_GRADIENTS),
    "embeddings": {"block_rows": 8, "num_warps": 1},
    "embeddings_gradient": NORM_GRADIENTS,
    "quantize_rows": {"elements": 256, "num_warps": 1},
    "quantize_weights": {"tile": 16, "num_warps": 8},
    "transpose": {"block_rows": 32, "block_columns": 16, "num_warps": 8},
    "adam_pass": {"chunk": 512, "tile": 256, "num_warps": 1, "maxnreg": 128},
    "lamb_second_pass": {"tile": 256, "num_warps": 2},
    "column_sums": {"block_rows": 64, "block_columns": 32, "num_warps": 4, "maxnreg": 128},
    "softmax": {"block_rows": 1, "block_columns": 256, "num_warps": 4},
    "cross_entropy": {"rows_per_block": 2},
    "attention_forward_whole": {"block_queries": 32, "num_warps": 8, "maxnreg": 255},
    "attention_forward_whole/longest": {"block_queries": 128, "num_warps": 8, "maxnreg": 255},
    "attention_backward_whole": {"block_keys": 32, "num_warps": 8, "maxnreg": 255},
    "attention_backward_whole/longest": {"block_keys": 128, "num_warps": 4, "maxnreg": 255},
    **dict.fromkeys((f"attention_{kernel}{inputs}" for kernel in LONG for inputs in ("", "/wide")), OTHER_BLOCKS),
    **dict.fromkeys((f"attention_{kernel}/fp32" for kernel in LONG), OTHER_BLOCKS),
}


class Asked(dict):
    """A row that knows whose settings it was asked for."""

    def __init__(self, row):
        super().__init__(row)
        self.kernels = set()

    def __getitem__(self, kernel):
        self.kernels.add(kernel)
        return super().__getitem__(kernel)


def is_slow(kernel: str) -> bool:
    """In the interpreter, beside those that are alike."""
    return kernel == "adam_pass" or kernel.endswith(("/fp32", "/wide"))


@pytest.mark.parametrize(
    "kernel", [pytest.param(kernel, marks=[pytest.mark.slow] * is_slow(kernel)) for kernel in tuning.DEFAULTS]
)
def test_other_settings_give_the_same_values(kernel, monkeypatch):
    make = workloads()[kernel].make
    # For attention more tokens than one thread block has whole.
    is_attention = kernel.startswith("attention")
    n_tokens, dtype, tolerance = (150, torch.float16, 2e-3) if is_attention else (24, torch.float32, 1e-5)
    step = Step(CONFIG, n_tokens, dtype, DEVICE)
    expected = make(step)()
    if kernel == "adam_pass":
        tune(monkeypatch, "lamb_second_pass", tile=256)  # which divides the chunk too
    tune(monkeypatch, kernel, **OTHERS[kernel])
    row = Asked(tuning.row(DEVICE))
    monkeypatch.setattr(tuning, "row", lambda device: row)
    found = make(step)()
    assert kernel in row.kernels
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one.float(), two.float(), rtol=tolerance, atol=tolerance)


def test_every_kernel_of_the_table_can_be_tuned_and_its_grid_has_the_settings_in_use():
    found = workloads()
    assert found.keys() == OTHERS.keys() == tuning.DEFAULTS.keys()
    for kernel, workload in found.items():
        for setting, number in tuning.DEFAULTS[kernel].items():
            assert number in workload.grid[setting], kernel


@pytest.mark.parametrize("capability", tuning.ROWS)
def test_rows_say_what_kernels_take(capability):
    row = tuning.row_of(capability)
    assert row.keys() == tuning.DEFAULTS.keys()
    for kernel, settings in row.items():
        assert settings.keys() - tuning.DEFAULTS[kernel].keys() <= {"num_stages", "maxnreg"}, kernel
        assert settings.keys() >= tuning.DEFAULTS[kernel].keys(), kernel
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
    monkeypatch.setattr(tuning, "row", lambda device: {"pass": {"tile": 1}, "pass/fp8": {"tile": 2}})
    assert tuning.settings("pass", DEVICE) == {"tile": 1}
    assert tuning.settings("pass", DEVICE, "fp8") == {"tile": 2}
    with pytest.raises(KeyError):
        tuning.settings("pass", DEVICE, "fp32")
