"""Checkpoints written behind the caller's back: what was given is what is saved, and no failure is lost."""

import gc
import subprocess
import sys
import threading
import weakref

import numpy as np
import pytest
import torch
from paths import ROOT

from common.checkpoint_files import find_checkpoints
from common.errors import UserError
from training.checkpointing import checkpoint
from training.checkpointing import writer as checkpoint_writer
from training.checkpointing.checkpoint import load_checkpoint
from training.checkpointing.writer import CheckpointWriter, to_host

PATIENCE = 20  # seconds that nothing here takes


def state(value=0.0, **changes):
    return {
        **dict.fromkeys(checkpoint.PARTS),
        "model": {"weight": torch.full((2, 3), value)},
        "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"betas": (0.9, 0.999)}]},
        **changes,
    }


def refuse(sentence):
    pytest.fail(f"a failure was reported: {sentence}")


def weight_in(folder, step):
    return float(load_checkpoint(folder / f"ckpt_{step}.pt")["model"]["weight"][0, 0])


def writer_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("checkpoint-writer")]


def run(report, folder, steps, error=None):
    """A run that saves after each of these steps, and then ends or meets an error."""
    with CheckpointWriter(report) as writer:
        for step in steps:
            writer.save(folder, step, state(float(step)))
        if error:
            raise error


@pytest.fixture
def slow_disk(monkeypatch):
    """An event without which no write goes on, and the list of steps whose write has begun."""
    may_write, begun = threading.Event(), []
    save = checkpoint_writer.save_checkpoint

    def wait_and_save(output_dir, step, state, **retention):
        begun.append(step)
        assert may_write.wait(PATIENCE)
        return save(output_dir, step, state, **retention)

    monkeypatch.setattr(checkpoint_writer, "save_checkpoint", wait_and_save)
    yield may_write, begun
    may_write.set()


@pytest.fixture
def broken_disk(monkeypatch):
    """The set of steps that cannot be written."""
    broken = set()
    save = checkpoint_writer.save_checkpoint

    def fail_or_save(output_dir, step, state, **retention):
        if step in broken:
            raise UserError(f"no room for {step}.")
        return save(output_dir, step, state, **retention)

    monkeypatch.setattr(checkpoint_writer, "save_checkpoint", fail_or_save)
    return broken


def test_all_arguments_reach_the_files(tmp_path):
    with CheckpointWriter(refuse) as writer:
        for step in range(10, 90, 10):
            writer.save(tmp_path, step, state(float(step)), keep=2, keep_every=20, phase_start_step=10)
    assert [step for step, _ in find_checkpoints(tmp_path)] == [10, 30, 50, 60, 70, 80]
    assert weight_in(tmp_path, 80) == 80.0
    loaded = load_checkpoint(tmp_path / "ckpt_80.pt")
    assert loaded["optimizer"]["param_groups"] == [{"betas": (0.9, 0.999)}]


def test_saving_returns_before_the_write_and_what_changes_afterwards_is_not_saved(tmp_path, slow_disk):
    may_write, _ = slow_disk
    given = state(1.0)
    with CheckpointWriter(refuse) as writer:
        writer.save(tmp_path, 1, given)
        assert find_checkpoints(tmp_path) == []
        given["model"]["weight"].fill_(2.0)
        given["optimizer"]["param_groups"][0]["betas"] = (0, 0)
        may_write.set()
    assert weight_in(tmp_path, 1) == 1.0
    assert load_checkpoint(tmp_path / "ckpt_1.pt")["optimizer"]["param_groups"] == [{"betas": (0.9, 0.999)}]


def test_one_write_at_a_time_in_order(tmp_path, slow_disk):
    may_write, begun = slow_disk
    with CheckpointWriter(refuse) as writer:
        writer.save(tmp_path, 1, state(1.0))
        second = threading.Thread(target=writer.save, args=(tmp_path, 2, state(2.0)))
        second.start()
        second.join(0.1)
        assert second.is_alive()  # waits for the first, so that there is one copy of the state at most
        assert begun == [1]
        may_write.set()
        second.join(PATIENCE)
        assert not second.is_alive()
        assert (tmp_path / "ckpt_1.pt").exists()
    assert weight_in(tmp_path, 2) == 2.0


def test_a_failed_write_is_reported_at_once_and_forgotten_when_the_next_succeeds(tmp_path, broken_disk):
    broken_disk |= {2}
    reported, told = [], threading.Event()

    def report(sentence):
        reported.append(sentence)
        told.set()

    with CheckpointWriter(report) as writer:
        writer.save(tmp_path, 1, state())
        writer.save(tmp_path, 2, state())
        assert told.wait(PATIENCE)
        writer.save(tmp_path, 3, state())
    assert reported == ["no room for 2."]
    assert [step for step, _ in find_checkpoints(tmp_path)] == [1, 3]


def test_a_last_write_that_failed_is_an_error(tmp_path, broken_disk):
    broken_disk |= {2}
    reported = []
    with pytest.raises(UserError, match="no room for 2"):
        run(reported.append, tmp_path, [1, 2])
    assert reported == ["no room for 2."]
    assert [step for step, _ in find_checkpoints(tmp_path)] == [1]
    assert writer_threads() == []


@pytest.mark.parametrize("fails", [False, True])
def test_an_error_in_training_is_the_one_raised_and_the_write_is_finished(tmp_path, slow_disk, fails):
    may_write, _ = slow_disk
    reported = []
    (tmp_path / "file").write_text("")
    threading.Timer(0.1, may_write.set).start()
    with pytest.raises(ZeroDivisionError):
        run(reported.append, tmp_path / "file" if fails else tmp_path, [3], ZeroDivisionError())
    if fails:
        assert len(reported) == 1
        assert "ckpt_3.pt could not be written" in reported[0]
    else:
        assert weight_in(tmp_path, 3) == 3.0
    assert writer_threads() == []


def test_a_bug_in_the_write_is_not_taken_for_a_full_disk(tmp_path, monkeypatch):
    def fail(*arguments):
        raise KeyError("a bug")

    monkeypatch.setattr(checkpoint_writer, "save_checkpoint", fail)
    with pytest.raises(KeyError):
        run(refuse, tmp_path, [1])
    with pytest.raises(KeyError):  # from the next save already, not at the end of a long run
        run(refuse, tmp_path, [1, 2], ZeroDivisionError())


@pytest.mark.parametrize("value", [{1}, np.float64(1.0), torch.float32, np.arange(3)])
def test_anything_but_tensors_and_primitives_is_refused_at_once(tmp_path, value):
    with CheckpointWriter(refuse) as writer, pytest.raises(TypeError, match=f"not a {type(value).__name__} such as"):
        writer.save(tmp_path, 1, state(schedule=[value]))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fails", [False, True])
def test_the_copy_is_let_go_when_it_is_written(tmp_path, broken_disk, monkeypatch, fails):
    broken_disk |= {1} if fails else set()
    copies, copied = [], checkpoint_writer.to_host

    def remember(value):
        copy = copied(value)
        copies.append(weakref.ref(copy["model"]["weight"]))
        return copy

    monkeypatch.setattr(checkpoint_writer, "to_host", remember)
    writer = CheckpointWriter(lambda sentence: None)
    gc.disable()  # what a traceback holds may go later by itself, and must go now
    try:
        writer.save(tmp_path, 1, state())
        writer._write.result(PATIENCE)
        writer._thread.submit(lambda: None).result(PATIENCE)  # the thread has gone on to something else
        assert copies[0]() is None
    finally:
        gc.enable()
        writer._thread.shutdown()


LEAVES_WITHOUT_WAITING = """
import sys, time
import torch
from training.checkpointing import checkpoint
from training.checkpointing import writer as checkpoint_writer
save = checkpoint_writer.save_checkpoint
def save_slowly(*arguments, **retention):
    time.sleep(0.3)
    save(*arguments, **retention)
checkpoint_writer.save_checkpoint = save_slowly
writer = checkpoint_writer.CheckpointWriter(print)
writer.save(sys.argv[1], 1, dict.fromkeys(checkpoint.PARTS) | {"model": {"weight": torch.ones(2, 3)}})
sys.exit(75)
"""


def test_an_interpreter_that_exits_finishes_the_write_and_ends(tmp_path):
    command = [sys.executable, "-c", LEAVES_WITHOUT_WAITING, tmp_path]
    result = subprocess.run(command, cwd=ROOT, timeout=60, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (75, "", "")
    assert weight_in(tmp_path, 1) == 1.0


def test_copies_are_whole_by_themselves_and_contiguous():
    whole = torch.arange(1000.0, requires_grad=True)
    parameter = torch.nn.Parameter(torch.ones(3))
    square = whole[:900].view(30, 30)
    views = {"part": whole[2:4], "empty": whole[:0], "scalar": whole[7], "square": square, "turned": square.t()}
    given = {
        "views": views,
        "tuple": (parameter, None, 1.5, "text"),
        5: [torch.tensor([1, 2]), True],
        "half": torch.ones(2, dtype=torch.bfloat16),
    }
    copy = to_host(given)
    for name, view in views.items():
        assert torch.equal(copy["views"][name], view)
        assert not copy["views"][name].requires_grad
        assert copy["views"][name].is_contiguous()
        assert copy["views"][name].untyped_storage().nbytes() == view.nbytes
    assert type(copy["tuple"][0]) is torch.Tensor
    assert copy["tuple"][0].data_ptr() != parameter.data_ptr()
    assert torch.equal(copy["tuple"][0], parameter)
    assert copy["tuple"][1:] == (None, 1.5, "text")
    assert torch.equal(copy[5][0], torch.tensor([1, 2]))
    assert copy[5][1] is True
    assert copy["half"].dtype == torch.bfloat16


def test_a_weight_that_two_names_share_is_saved_once(tmp_path):
    weight = torch.arange(100_000.0)
    with CheckpointWriter(refuse) as writer:
        writer.save(tmp_path, 1, state(model={"embedding": weight, "decoder": weight.detach(), "part": weight[:2]}))
    assert (tmp_path / "ckpt_1.pt").stat().st_size < 1.1 * weight.nbytes
    loaded = load_checkpoint(tmp_path / "ckpt_1.pt")["model"]
    assert torch.equal(loaded["decoder"], weight)
    assert loaded["part"].tolist() == [0.0, 1.0]


@pytest.mark.gpu
def test_copies_from_a_gpu_are_complete_when_the_copy_returns():
    weights = [torch.randn(1 << 20, device="cuda") for _ in range(8)]
    for _ in range(20):
        expected = [weight.clone() for weight in weights]
        copy = to_host({"weights": weights})["weights"]
        for weight in weights:
            weight.zero_()
        assert all(c.device.type == "cpu" for c in copy)
        assert all(torch.equal(c, e.cpu()) for c, e in zip(copy, expected, strict=True))
        weights = expected
