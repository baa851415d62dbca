"""benchmark/attention_settings.py: it times what is right, says what is not, and leaves the settings as they were."""

import pytest

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
    kernel = attention_settings.KERNELS["whole forward"]
    others = ((32, 32, 4, 1, 0), (48, 48, 4, 1, 0))
    monkeypatch.setattr(attention_settings, "KERNELS", {"whole forward": kernel._replace(others=others)})
    attention_settings.main([*SMALL, "--most", "2", "--lengths", "64", "--tokens", "64", "--kernels", "whole forward"])
    wrong, failing, *table = capsys.readouterr().out.splitlines()
    assert wrong.startswith("whole forward, 64: block 32, block_queries 32, num_warps 4, num_stages 1: values are ")
    assert failing.startswith("whole forward, 64: block 48, block_queries 48, num_warps 4, num_stages 1: ")
    assert "power of 2" in failing
    assert len(table) == 3


def test_settings_are_as_they_were_afterwards():
    before = short_attention.forward_blocks_settings(64, 2)
    settings = attention_settings.KERNELS["forward"]._replace(others=((64, 32, 4, 1, 0),)).settings()[0]
    with attention_settings.in_use("forward", settings):
        assert short_attention.forward_blocks_settings(64, 2) == settings
    assert settings == {"block_queries": 64, "block_keys": 32, "num_warps": 4, "num_stages": 1}
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
