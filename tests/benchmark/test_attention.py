"""benchmark/attention.py: its checks find errors, its bytes and its table are arithmetic, and it runs on a CPU."""

import pytest
import torch

from benchmark import attention
from benchmark.workloads.attention_inputs import AttentionInputs
from common.errors import UserError

SMALL = ["--bert_model", "tiny", "--tokens", "64", "--lengths", "32", "--repeats", "1", "--device", "cpu"]


def inputs(lengths, max_seqlen, head_size=16):
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(sum(lengths), 3, 2, head_size, generator=generator)
    gradient = torch.randn(sum(lengths), 2, head_size, generator=generator)
    return AttentionInputs(qkv, gradient, torch.tensor([0, *lengths]).cumsum(0).int(), max_seqlen)


def test_on_a_cpu(capsys):
    attention.main([*SMALL, "--backends", "sdpa", "--precision", "fp32"])
    printed = capsys.readouterr().out
    assert printed.count("| sdpa") == 2
    assert "a copy reads and writes" in printed


def test_a_right_backend_has_no_error_and_a_wrong_one_does(monkeypatch):
    some = inputs([5, 0, 9], 9)
    assert all(0 < error < 1e-5 for error in attention.errors(some, "sdpa"))
    right = attention.variable_length_attention

    def wrong(qkv, cu_seqlens, max_seqlen, dropout_p, backend):
        output = right(qkv, cu_seqlens, max_seqlen, dropout_p, backend)
        return output if backend == "reference" else output * 1.1

    monkeypatch.setattr(attention, "variable_length_attention", wrong)
    assert attention.errors(some, "sdpa") == pytest.approx([0.1] * 4, rel=1e-3)


@pytest.mark.parametrize(("lengths", "head_size"), [([60, 64, 0, 3], 16), ([8, 8], 16)])
def test_the_dropped_share_is_of_weights_that_exist(lengths, head_size):
    torch.manual_seed(0)
    share, deviation = attention.dropped_share(inputs(lengths, 64, head_size), "reference", 0.3)
    n_weights = sum(length * min(length, head_size) for length in lengths) * 2
    assert deviation == pytest.approx((0.3 * 0.7 / n_weights) ** 0.5)
    assert abs(share - 0.3) < 4 * deviation
    assert attention.dropped_share(inputs(lengths, 64, head_size), "reference", 0.0)[0] == 0


def test_the_table_is_of_medians():
    some = inputs([100], 100)  # 100 x 2 x 16 numbers of 4 bytes: 12,800 a tensor
    seconds = {
        (100, "sdpa", 0): [1e-3, 2e-3, 9e-3],
        (100, "sdpa", 1): [9e-3, 9e-3, 9e-3],
        (100, "triton", 0): [1e-3, 1e-3, 5e-3],
        (100, "triton", 1): [4e-3, 4e-3, 1e-3],
    }
    lines = attention.time_table({100: some}, seconds, copy=102.4e6).splitlines()[2:]
    assert [[cell.strip() for cell in line.strip("|").split("|")] for line in lines] == [
        # 4 tensors forward; 12 in both directions, and 6 to join three into one
        ["sdpa", "100", "2", "25.0%", "9", "25.0%"],
        ["triton", "100", "1", "50.0%", "4", "37.5%"],
    ]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["--backends", "flash"],
            "--backends has flash: --attention flash: FlashAttention-2 runs on NVIDIA GPUs",
        ),
        (["--repeats", "0"], "--repeats is 0"),
        (["--dropout", "1"], "--dropout is 1.0"),
        (["--lengths", "100000000"], "--lengths has 100000000"),
        (["--mean_length", "200", "--lengths", "128"], "--mean_length 200 is no mean length .* --lengths 128"),
    ],
)
def test_refused(arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        attention.check(attention.parse_arguments(["--device", "cpu", *arguments]))


def test_triton_on_a_cpu_needs_the_interpreter(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(
        UserError, match="--backends has triton: --attention triton: Triton kernels run on NVIDIA GPUs only"
    ):
        attention.check(attention.parse_arguments(["--device", "cpu", "--backends", "triton"]))
