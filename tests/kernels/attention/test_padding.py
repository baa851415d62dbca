"""Flat to rectangle and back, with integers worked out by hand."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from kernels.attention.padding import pad, padded_indices, sequence_indices, unpad


def test_indices_by_hand():
    cu_seqlens = torch.tensor([0, 3, 3, 4, 6], dtype=torch.int32)  # lengths 3, 0, 1, 2
    assert sequence_indices(cu_seqlens, 6).tolist() == [0, 0, 0, 2, 3, 3]
    assert padded_indices(cu_seqlens, 4, 6).tolist() == [0, 1, 2, 8, 12, 13]


def test_pad_and_unpad_by_hand():
    indices = padded_indices(torch.tensor([0, 1, 3], dtype=torch.int32), 3, 3)
    padded = pad(torch.tensor([5, 6, 7]), indices, 2, 3)
    assert padded.tolist() == [[5, 0, 0], [6, 7, 0]]
    assert unpad(padded, indices).tolist() == [5, 6, 7]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6).filter(any))
def test_pad_then_unpad_is_the_identity_and_each_is_the_others_gradient(lengths):
    cu_seqlens = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)
    indices = padded_indices(cu_seqlens, 5, sum(lengths))
    flat = torch.randn(sum(lengths), 2, dtype=torch.float64, requires_grad=True)
    padded = pad(flat, indices, len(lengths), 5)
    assert torch.equal(unpad(padded, indices), flat)
    for i, length in enumerate(lengths):
        assert torch.equal(padded[i, :length], flat[cu_seqlens[i] : cu_seqlens[i + 1]])
        assert (padded[i, length:] == 0).all()
    torch.autograd.gradcheck(lambda x: unpad(pad(x, indices, len(lengths), 5) ** 2, indices), flat)
