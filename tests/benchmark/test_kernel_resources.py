"""benchmark/kernel_resources.py: one kernel compiled without a GPU, and its arithmetic and table by hand."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmark import kernel_resources
from benchmark.kernel_resources import Resources
from common.errors import UserError

SCRIPT = Path(kernel_resources.__file__)

PTX = """
    ld.global.v4.b32 { %r1, %r2, %r3, %r4 }, [ %rd1 + 0 ];
    cp.async.cg.shared.global [ %r5 + 0 ], [ %rd2 + 0 ], 0x10, %r6;
    @%p1 ld.global.b32 { %r7 }, [ %rd3 + 0 ];
"""
SASS = """
        /*0000*/                   LDC R1, c[0x0][0x28] ;       /* 0x00000a00ff017b82 */
                                                                /* 0x000e220000000800 */
        /*0010*/                   HGMMA.64x64x16.F32.BF16 R24, gdesc[UR4], RZ, !UPT ;  /* 0x00e0 */
        /*0020*/                   HGMMA.64x64x16.F32.BF16 R24, gdesc[UR8], R24, gsb0 ; /* 0x00e0 */
        /*0030*/                   WARPGROUP.DEPBAR.LE gsb0, 0x0 ;                      /* 0x0000 */
"""


@pytest.fixture
def assembler():
    try:
        kernel_resources.tool("ptxas")
    except UserError as error:
        pytest.skip(str(error))


def run(*arguments):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_attention_is_compiled_without_a_gpu_and_has_room(assembler, tmp_path):
    done = run("--kernels", "whole of 128", "--keep", str(tmp_path))
    assert done.returncode == 0, done.stderr
    header, _, *lines = ([cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines())
    forward, backward = (dict(zip(header, line, strict=True)) for line in lines)
    assert forward["kernel"] == "attention_forward_whole of 128 tokens"
    # None by Triton 3.7; 3.6, which PyTorch 2.11 has, spills a few bytes of 128 registers.
    assert max(int(line["spilled bytes"]) for line in (forward, backward)) <= 16
    assert int(forward["thread blocks per SM"]) >= 3
    assert int(backward["thread blocks per SM"]) >= 2
    assert forward["matmuls"].startswith("wgmma")
    # Of 128 threads, each reads 16 bytes of 64 queries 4 times and of 128 keys and values 8 times; the two ends of the
    # sequence and the seed are narrow.
    assert forward["16-byte loads"] == "20 of 23"
    assert "wgmma.mma_async" in (tmp_path / "attention_forward_whole_of_128_tokens.ptx").read_text()
    assert "HGMMA" in (tmp_path / "attention_forward_whole_of_128_tokens.sass").read_text()


def test_an_unknown_kernel_is_refused_with_the_names_of_those_that_steps_launch(assembler):
    done = run("--kernels", "softmax")
    assert done.returncode == 2
    names = re.search(r"softmax is in no name; there are (.*)\.", done.stderr)[1].split(", ")
    both = {"dropout_add_norm of 64 tokens", "gelu of 64 tokens", "gelu_gradient of 64 tokens", "adam_pass of adamw"}
    assert both < set(names)
    assert {"to_fp8", "has_second", "quantize_rows of 64 tokens", "lamb_second_pass of lamb"} < set(names)
    older = run("--kernels", "softmax", "--arch", "80").stderr
    assert "gelu of 64 tokens" in older
    assert "fp8" not in older


def test_the_interpreter_compiles_nothing(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(UserError, match="unset it"):
        kernel_resources.main([])


def test_code_is_counted():
    found = Resources(n_warps=4, registers=100, spilled_bytes=8, shared_bytes=2048, ptx=PTX, sass=SASS)
    assert found.row("a", 90) == ["a", "4", "100", "8", "2,048", "4", "wgmma 2, 1 waits", "2 of 3"]


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
    found = Resources(n_warps, registers, 0, shared_bytes, "", "")
    assert found.row("a", 90)[5] == str(n_blocks)
