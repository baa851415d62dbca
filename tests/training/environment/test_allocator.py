"""Who has the last word on PyTorch's allocator, and whether it listens when it is told by a running process."""

import os
import subprocess
import sys

import pytest

from training.environment.allocator import VARIABLES, use_expandable_segments


@pytest.mark.parametrize("given", [{}, *({name: "max_split_size_mb:512"} for name in VARIABLES)])
def test_a_user_who_has_set_it_up_goes_before(monkeypatch, given):
    monkeypatch.setattr(os, "environ", dict(given))
    use_expandable_segments()
    assert os.environ == (given or {"PYTORCH_ALLOC_CONF": "expandable_segments:True"})


GROWING = """
import torch
from training.environment.allocator import use_expandable_segments
use_expandable_segments()
for megabytes in range(100, 2000, 100):
    torch.empty(megabytes * 2**20, dtype=torch.uint8, device="cuda")
print(torch.cuda.max_memory_reserved() / torch.cuda.max_memory_allocated())
"""


@pytest.mark.gpu
def test_tensors_of_many_sizes_share_their_memory():
    """Each is freed before the next, larger one; without expandable segments each has a segment of its own."""
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    reserved = {}
    for name, program in {"ours": GROWING, "PyTorch's": GROWING.replace("\nuse_expandable_segments()", "")}.items():
        run = [sys.executable, "-c", program]
        reserved[name] = float(subprocess.run(run, env=environment, check=True, capture_output=True, text=True).stdout)
    assert reserved["ours"] < 1.05 < 5 < reserved["PyTorch's"]
