"""benchmark/attention_settings.py: it times what is right, says what is not, and leaves the settings as they were."""

import pytest
import torch

from benchmark import attention_settings
from common.errors import UserError
from kernels.attention import short as short_attention

SMALL = ["--device", "cpu", "--repeats", "1", "--most", "1"]


@pytest.mark.parametrize(
    ("length", "kernels"), [(65, ["whole forward", "whole backward"]), (130, ["forward", "queries", "keys"])]
)
def test_on_a_cpu(length, kernels, capsys, monkeypatch):
    monkeypatch.setattr(attention_settings, "HEADS", 1)
    monkeypatch.setattr(attention_settings, "seconds_of", lambda work, device: work() and 1.0)
    attention_settings.main([*SMALL, "--lengths", str(length), "--tokens", str(length)])
    printed = capsys.readouterr().out
    for kernel in kernels:
        lines = [line for line in printed.splitlines() if line.startswith(f"| {kernel} ")]
        assert len(lines) == 2
        assert sum("in use" in line for line in lines) == 1


def test_what_fails_or_is_wrong_is_said_and_not_timed(capsys, monkeypatch):
    monkeypatch.setattr(attention_settings, "HEADS", 1)
    monkeypatch.setattr(attention_settings, "seconds_of", lambda work, device: 1.0)
    function, _ = attention_settings.KERNELS["whole forward"]
    grid = {"block": (32, 48), "block_queries": (32,)}
    monkeypatch.setattr(attention_settings, "KERNELS", {"whole forward": (function, grid)})
    attention_settings.main([*SMALL, "--most", "2", "--lengths", "64", "--tokens", "64", "--kernels", "whole forward"])
    wrong, failing, *table = capsys.readouterr().out.splitlines()
    assert wrong.startswith("whole forward, 64: block 32, block_queries 32, num_warps 4, maxnreg 128: values are ")
    assert failing.startswith("whole forward, 64: block 48, block_queries 32, num_warps 4, maxnreg 128: ")
    assert "power of 2" in failing
    assert len(list(filter(None, table))) == 3


def test_settings_are_those_in_use_and_then_the_grid_and_in_use_again_afterwards():
    before = short_attention.forward_blocks_settings(64, 2)
    inputs = attention_settings.random_inputs(1, 130, None, (16, 64), torch.float16, "cpu")
    used, *others = attention_settings.settings_of("forward", inputs)
    assert used == before
    assert used not in others
    assert len(others) == 2 * 2 * 2 * 3 * 2 - 1
    assert {"block_queries": 64, "block_keys": 64, "num_warps": 4, "num_stages": 1, "maxnreg": 255} in others
    seen = []
    run = attention_settings.pass_with("forward", others[0], inputs)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(short_attention, "short_attention", None)  # the pass has it already
        patched.setattr(
            short_attention, "attention_forward_blocks", {(16 * 2 * 3,): lambda *_, **given: seen.append(given)}
        )
        run()
    assert others[0].items() <= seen[0].items()
    assert short_attention.forward_blocks_settings(64, 2) == before


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--lengths", "513"], "--lengths has 513; it must lie between 1 and 512"),
        (["--repeats", "0"], "--repeats is 0; it must be 1 or more"),
        (["--tokens", "0"], "--tokens is 0; it must be 1 or more"),
        (["--most", "-1"], "--most is -1; it must be 0 or more"),
    ],
)
def test_bad_input(flags, sentence):
    with pytest.raises(UserError, match=sentence):
        attention_settings.main([*SMALL, *flags])


def test_without_a_gpu_or_the_interpreter(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(UserError, match="--device cpu cannot run Triton; take a GPU"):
        attention_settings.main(SMALL)
