"""benchmark/kernel_resources.py: one kernel compiled without a GPU, and its arithmetic and table by hand."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT

from benchmark import kernel_resources
from common.errors import UserError

SCRIPT = Path(kernel_resources.__file__)
COMPILED = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}


@pytest.fixture
def assembler():
    triton = pytest.importorskip("triton")
    if not Path(triton.__file__).with_name("backends").joinpath("nvidia", "bin", "ptxas").exists():
        pytest.skip("Triton brings no assembler for this platform")


def run(*arguments):
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=COMPILED, check=False)


def table(done):
    """A dict per kernel, of cells by column."""
    assert done.returncode == 0, done.stderr
    header, _, *lines = ([cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines())
    return [dict(zip(header, line, strict=True)) for line in lines]


def test_attention_is_compiled_without_a_gpu_and_has_room(assembler, tmp_path):
    forward, backward = table(run("--kernels", "whole of 128", "--keep", str(tmp_path)))
    assert forward["kernel"] == "attention_forward_whole of 128 tokens"
    # None by Triton 3.7; 3.6, which PyTorch 2.11 has, spills a few bytes of 128 registers.
    assert max(int(line["spilled bytes"]) for line in (forward, backward)) <= 16
    assert int(forward["thread blocks per SM"]) >= 3
    assert int(backward["thread blocks per SM"]) >= 2
    assert "wgmma.mma_async" in (tmp_path / "attention_forward_whole_of_128_tokens.ptx").read_text()
    assert "HGMMA" in (tmp_path / "attention_forward_whole_of_128_tokens.sass").read_text()


def test_matmuls_with_gelu_have_registers_for_all(assembler):
    """In both formats, directions and forms; what the multiplying warps spill would lie in their inner loop."""
    lines = table(run("--kernels", "gelu_matmul"))
    assert len(lines) == 2 * 2 * 2
    assert {line["spilled bytes"] for line in lines} == {"0"}
    assert {line["warps"] for line in lines} == {"20"}


def test_thread_blocks_that_stay_fit_at_the_width_of_another_model(assembler):
    """The table of settings says eight, of one warp each."""
    name = "dropout_add_norm_gradients of 64 tokens in fp8 alone, to_fp8, has_second"
    (found,) = table(run("--bert_model", "base", "--kernels", name))
    assert (found["kernel"], found["warps"]) == (name, "1")
    assert int(found["thread blocks per SM"]) >= 8


def test_the_kernels_are_those_that_steps_launch(assembler):
    code = "from benchmark.kernel_resources import launches; print([list(launches(arch, 'base')) for arch in (90, 80)])"
    command = [sys.executable, "-c", code]
    printed = subprocess.run(command, capture_output=True, cwd=ROOT, env=COMPILED, text=True, check=True).stdout
    hopper, ampere = (set(", ".join(names).split(", ")) for names in ast.literal_eval(printed))
    passes = {"gelu of 64 tokens", "gelu_gradient of 64 tokens", "tanh"}
    both = {"dropout_add_norm of 64 tokens", "has_second", "adam_pass of adamw", "lamb_second_pass of lamb"}
    assert both | passes < ampere
    assert ampere - hopper == passes
    of_hopper = {"to_fp8", "quantize_rows of 64 tokens in fp8", "gelu_matmul of 64 tokens", "by_tanh", "in_fp8"}
    assert of_hopper < hopper
    assert not of_hopper & ampere


def test_an_unknown_kernel_is_refused_with_the_names_of_the_others(monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(kernel_resources, "launches", lambda *_: {"gelu of 64 tokens": [], "adam_pass of adamw": []})
    with pytest.raises(UserError, match="softmax is in no name; there are gelu of 64 tokens, adam_pass of adamw"):
        kernel_resources.main(["--kernels", "softmax"])


def test_the_interpreter_compiles_nothing(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(UserError, match="unset it"):
        kernel_resources.main([])


@pytest.mark.parametrize(
    ("n_warps", "registers", "shared_bytes", "n_blocks"),
    [
        (4, 128, 0, 4),  # 65,536 registers / (128 threads * 128)
        (8, 129, 0, 1),  # 129 are given out as 136: 1.88 blocks
        (4, 32, 50 << 10, 4),  # 228 KiB / (50 + 1)
        (8, 32, 0, 8),  # 64 warps / 8
    ],
)
def test_thread_blocks_beside_each_other(n_warps, registers, shared_bytes, n_blocks):
    assert kernel_resources.blocks_per_multiprocessor(90, n_warps, registers, shared_bytes) == n_blocks
