"""benchmark/floor.py: its products in fp8 are right, its table is arithmetic, and what cannot be done is refused."""

import pytest
import torch

from benchmark import floor
from common.errors import UserError
from common.work import Matmul


@pytest.mark.parametrize("row_wise", [False, True])
def test_fp8_keeps_the_range_of_the_format(row_wise):
    matrix = torch.randn(64, 32, generator=torch.Generator().manual_seed(1)) * torch.logspace(-6, 3, 64)[:, None]
    rounded, scale = floor.to_fp8(matrix, row_wise)
    assert rounded.dtype == torch.float8_e4m3fn
    back = rounded.float() * scale
    if row_wise:  # three bits behind the point: half a unit in the last place is a sixteenth; below 2^-9 it underflows
        bound = (matrix.abs() / 16).maximum(matrix.abs().amax(1, keepdim=True) / 448 * 2**-10)
        assert scale.shape == (64, 1)
    else:
        bound = (matrix.abs() / 16).maximum(matrix.abs().amax() / 448 * 2**-10)
        assert scale.shape == ()
    assert ((back - matrix).abs() <= bound * 1.001).all()
    assert rounded.float().abs().max() == 448


@pytest.mark.gpu
@pytest.mark.parametrize("row_wise", [False, True])
def test_an_fp8_product_is_the_product_of_what_was_rounded(row_wise):
    generator = torch.Generator("cuda").manual_seed(1)
    left, right = (
        torch.randn(rows, 256, device="cuda", dtype=torch.bfloat16, generator=generator) for rows in (128, 192)
    )
    (left_fp8, left_scale), (right_fp8, right_scale) = (floor.to_fp8(factor, row_wise) for factor in (left, right))
    expected = (left_fp8.double() * left_scale) @ (right_fp8.double() * right_scale).T
    torch.testing.assert_close(floor.fp8_product(left, right, row_wise)().double(), expected, rtol=1e-2, atol=5e-2)


def test_the_table_is_of_medians(capsys):
    small, large = Matmul("small", 1000, 1000, 500, 2), Matmul("large", 2000, 1000, 500, 1)
    seconds = {(small, "bf16"): [1.0, 2.0, 50.0], (large, "bf16"): [4.0, 4.0, 4.0]}
    lines = floor.table([small, large], ["bf16"], seconds).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert cells == [
        ["small", "1000 x 1000 x 500", "0.0005"],  # 1e9 operations in 2 s
        ["large", "2000 x 1000 x 500", "0.0005"],
        ["all of a step", "", "0.0005"],  # 4e9 in 8 s
        ["ms per step", "", "8,000"],
    ]


def test_on_a_cpu(capsys):
    floor.main(["--bert_model", "tiny", "--batch_size", "2", "--formats", "fp32", "--repeats", "1", "--device", "cpu"])
    printed = capsys.readouterr().out
    assert printed.count("weight gradient") == 4 + 3
    assert [line.split("|")[2].strip() for line in printed.splitlines() if "feed-forward in, forward" in line] == [
        "256 x 512 x 128",
        "42 x 512 x 128",  # two sequences of [CLS] and 20 masked positions
    ]
    assert "a copy reads and writes" in printed


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--formats", "fp8-row"], "fp8-row, which cpu cannot do"),
        (["--formats", "tf32"], "tf32, which cpu cannot do"),
        (["--formats", "fp32", "--repeats", "0"], "--repeats is 0"),
        (["--formats", "fp32", "--seconds", "0"], "--seconds is 0"),
        (["--formats", "fp32", "--seconds", "nan"], "--seconds is nan"),
    ],
)
def test_refused(arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        floor.check(floor.parse_arguments(["--device", "cpu", *arguments]))
