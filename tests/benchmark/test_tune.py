"""benchmark/tune.py: it times what is right, says what is not, and prints a row with the fastest settings."""

import ast
import textwrap

import pytest
import torch

from benchmark import tune
from benchmark.workloads.tuned_kernels import Step, Workload
from common.errors import UserError
from kernels import tuning

SMALL = ["--device", "cpu", "--bert_model", "tiny", "--tokens", "64"]
STEP = Step(None, 64, torch.float32, torch.device("cpu"))


def pretend(monkeypatch, seconds, row=None, values=None):
    """One kernel with a setting, `tile`, that takes so many seconds and returns such values, by that setting."""
    defaults = {"adding": {"tile": 16, "num_warps": 4}}
    monkeypatch.setattr(tuning, "DEFAULTS", defaults)
    monkeypatch.setattr(tuning, "ROWS", {None: row} if row else {})
    tuning.row.cache_clear()
    used = []

    def make(step):
        def run():
            tile = tuning.settings("adding", step.device)["tile"]
            if tile == 48:
                raise RuntimeError("48 is not a\npower of 2")
            used.append(tile)
            return [torch.tensor([(values or {}).get(tile, 1.0)])]

        return run

    monkeypatch.setattr(tune, "workloads", lambda: {"adding": Workload(make, {"tile": tuple(seconds)})})
    monkeypatch.setattr(tune, "seconds_of", lambda work, device: work() and seconds[used[-1]])


@pytest.fixture(autouse=True)
def _rows_are_forgotten():
    yield
    tuning.row.cache_clear()


def row_of(printed: str) -> dict:
    """The row that was printed, as Python reads it at its place in the table."""
    row = printed[printed.index("        None: {") :]
    return ast.literal_eval("{" + textwrap.dedent(row) + "}")


def test_the_fastest_settings_make_the_row(capsys, monkeypatch):
    pretend(monkeypatch, {16: 1.0, 32: 0.5, 64: 0.75})
    tune.main(SMALL)
    printed = capsys.readouterr().out
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in printed.splitlines() if "| tile" in line]
    assert lines == [
        ["tile 32, num_warps 4", "500", "0.500"],
        ["tile 64, num_warps 4", "750", "0.750"],
        ["tile 16, num_warps 4, in use", "1000", "1.000"],
    ]
    assert row_of(printed) == {None: {"adding": {"tile": 32, "num_warps": 4}}}
    monkeypatch.setattr(tuning, "ROWS", row_of(printed))
    tuning.row.cache_clear()
    tune.main(SMALL)  # now they are in use, and nothing is faster
    again = capsys.readouterr().out
    assert "| tile 32, num_warps 4, in use |" in again
    assert "Nothing is faster by 2% than this row" in again
    assert row_of(again) == row_of(printed)


def test_what_is_hardly_faster_changes_nothing(capsys, monkeypatch):
    pretend(monkeypatch, {16: 1.0, 32: 0.985})
    tune.main(SMALL)
    assert row_of(capsys.readouterr().out) == {None: {}}


def test_what_fails_or_is_wrong_is_said_and_not_timed(capsys, monkeypatch):
    pretend(monkeypatch, {16: 1.0, 32: 0.1, 48: 0.1, 64: 0.9}, values={32: 1.02, 64: 1.001})
    tune.main(SMALL)
    wrong, failing, *rest = capsys.readouterr().out.splitlines()
    assert wrong == "adding: tile 32, num_warps 4: ValueError: values are 2.0% off"
    assert failing == "adding: tile 48, num_warps 4: RuntimeError: 48 is not a power of 2"
    assert row_of("\n".join(rest)) == {None: {"adding": {"tile": 64, "num_warps": 4}}}


def test_settings_in_use_that_do_not_run_are_replaced(capsys, monkeypatch):
    pretend(monkeypatch, {16: 1.0, 64: 2.0}, row={"adding": {"tile": 48, "num_warps": 4}})
    tune.main(SMALL)
    printed = capsys.readouterr().out
    assert printed.startswith("adding: tile 48, num_warps 4: RuntimeError")
    assert row_of(printed) == {None: {"adding": {"tile": 16, "num_warps": 4}}}


def test_nothing_that_runs_leaves_the_row_as_it_is(capsys, monkeypatch):
    pretend(monkeypatch, {48: 1.0}, row={"adding": {"tile": 48, "num_warps": 4}})
    tune.main(SMALL)
    assert row_of(capsys.readouterr().out) == {None: {"adding": {"tile": 48, "num_warps": 4}}}


def test_only_so_many_are_tried(capsys, monkeypatch):
    pretend(monkeypatch, {16: 1.0, 32: 0.9, 64: 0.1})
    tune.main([*SMALL, "--most", "1"])
    assert row_of(capsys.readouterr().out) == {None: {"adding": {"tile": 32, "num_warps": 4}}}


def test_a_kernel_of_ours(capsys, monkeypatch):
    monkeypatch.setattr(tune, "seconds_of", lambda work, device: len(work()))
    tune.main([*SMALL, "--most", "1", "--kernels", "entropy", "--repeats", "1"])
    printed = capsys.readouterr().out
    assert printed.count("| rows_per_block ") == 2
    assert row_of(printed) == {None: {}}


@pytest.mark.parametrize("capability", [(8, 6), (9, 0)])
def test_fp8_is_tuned_where_there_is_any(capability, capsys, monkeypatch):
    tuned = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A10")
    monkeypatch.setattr(tune, "triton_problem", lambda device: None)
    monkeypatch.setattr(tune, "fastest", lambda kernel, *rest: tuned.append(kernel))
    tune.main(["--device", "cuda:0", "--kernels", "gelu_gradient", "transpose"])
    printed = capsys.readouterr().out
    in_fp8 = [*(f"gelu_gradient/fp8{kind}" for kind in ("", "_alone", "_alone_narrow")), "transpose"]
    assert tuned == ["gelu_gradient", *(in_fp8 if capability == (9, 0) else [])]
    assert (f"This GPU has no fp8. Left out: {', '.join(in_fp8)}." in printed) == (capability == (8, 6))
    assert f"        {capability}: {{  # NVIDIA A10\n" in printed


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--kernels", "column_sums", "cublas"], "--kernels cublas is in no name; there are gelu, "),
        (["--repeats", "0"], "--repeats is 0; it must be 1 or more"),
        (["--tokens", "0"], "--tokens is 0; it must be 1 or more"),
        (["--most", "-1"], "--most is -1; it must be 0 or more"),
    ],
)
def test_bad_input(flags, sentence):
    with pytest.raises(UserError, match=sentence):
        tune.main([*SMALL, *flags])


def test_without_a_gpu_or_the_interpreter(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(UserError, match=r"--device cpu: Triton kernels run on NVIDIA GPUs only, .*; take a GPU"):
        tune.main(SMALL)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="--device cuda: torch sees no GPU; take a GPU"):
        tune.main([])
