"""The switch is on inside, and off again after; that a GPU then repeats itself, test_run_pretraining_gpu.py shows."""

import contextlib
import os

import pytest
import torch

from training.determinism import deterministic


def state():
    return torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory


@pytest.fixture(autouse=True)
def _without_variable(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")


def test_on_inside_and_as_before_after():
    before = state()
    with deterministic(True):
        assert state() == (True, False)
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        with pytest.raises(RuntimeError, match="does not have a deterministic implementation"):
            torch.zeros(3).put_(torch.tensor([0]), torch.ones(1))
    assert state() == before


def test_off_again_after_an_error():
    before = state()
    with contextlib.suppress(KeyError), deterministic(True):
        raise KeyError
    assert state() == before


def test_what_the_user_set_stays(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    with deterministic(True):
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_not_asked_for_it_does_nothing():
    before = state()
    with deterministic(False):
        assert state() == before
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
