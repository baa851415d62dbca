"""benchmark/gelu_matmul.py: it says why it cannot measure, and measures where it can."""

import pytest
import torch

from benchmark.gelu_matmul import main
from common.errors import UserError


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_there_is_nothing_to_measure():
    with pytest.raises(UserError, match="no GPU"):
        main([])


@pytest.mark.gpu
@pytest.mark.parametrize("flags", [[], ["--fp8"]])
def test_a_line_for_each_direction(capsys, flags):
    if torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("the kernel is for compute capability 9.0")
    main(["--bert_model", "base", "--tokens", "300", "--repeats", "1", *flags])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[2].strip() for line in lines[2:4]] == ["forward", "backward"]
