"""Checkpoints: bit-exact there and back, whole or not there, and clear about what they are not."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from paths import ROOT

from common.checkpoint_files import find_checkpoints
from common.errors import UserError
from training.checkpointing.checkpoint import (
    load_checkpoint,
    save_checkpoint,
)


def state(**changes):
    return {
        "model": {"weight": torch.arange(6.0).reshape(2, 3)},
        "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.999)}]},
        "schedule": {"finished_steps": 5},
        "training_step": {"loss_sums": None, "n_losses": 0},
        "data_position": {"epoch": 1, "batch": 17},
        "configuration": {"seed": 42, "init_checkpoint": None, "input_dir": "data"},
        **changes,
    }


def steps_in(folder):
    return [step for step, _ in find_checkpoints(folder)]


def test_a_folder_that_cannot_be_listed_does_not_pass_for_one_without_checkpoints(tmp_path, monkeypatch):
    """Or a run of days, started again, would begin at step 0."""

    def fail(path="."):
        raise OSError(errno.ESTALE, "Stale file handle", str(path))

    (tmp_path / "file").touch()
    assert steps_in(tmp_path) == steps_in(tmp_path / "absent") == steps_in(tmp_path / "file") == []
    monkeypatch.setattr(os, "listdir", fail)
    monkeypatch.setattr(os, "scandir", fail)
    with pytest.raises(OSError, match="Stale file handle"):
        steps_in(tmp_path)


def test_training_goes_on_bit_for_bit(tmp_path):
    def build():
        torch.manual_seed(3)
        model = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Dropout(0.3), torch.nn.Linear(4, 1))
        return model, torch.optim.AdamW(model.parameters(), lr=0.01)

    def train(model, optimizer, steps):
        losses = []
        for step in steps:
            torch.manual_seed(step)  # random numbers follow from the place in the data
            loss = model(torch.randn(8, 5)).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        return losses

    model, optimizer = build()
    train(model, optimizer, range(3))
    saved = state(model=model.state_dict(), optimizer=optimizer.state_dict())
    path = save_checkpoint(tmp_path / "run", 3, saved)
    assert path.name == "ckpt_3.pt"
    expected = train(model, optimizer, range(3, 7))

    model, optimizer = build()
    loaded = load_checkpoint(path)
    model.load_state_dict(loaded["model"])
    optimizer.load_state_dict(loaded["optimizer"])
    assert train(model, optimizer, range(3, 7)) == expected
    assert loaded["step"] == 3
    assert loaded["data_position"] == {"epoch": 1, "batch": 17}
    assert loaded["optimizer"]["param_groups"][0]["betas"] == (0.9, 0.999)
    assert loaded["configuration"] == saved["configuration"]


def test_the_last_three_are_kept_and_strangers_left_alone(tmp_path):
    strangers = [tmp_path / name for name in ("ckpt_best.pt", "ckpt_1.pt.bak", "notes.txt")]
    for stranger in strangers:
        stranger.write_text("mine")
    for step in (5, 100, 20, 30):
        save_checkpoint(tmp_path, step, state())
    # 20 was saved after 100, by a run that went back: 100 is of another future and stays until someone removes it.
    assert steps_in(tmp_path) == [5, 20, 30, 100]
    save_checkpoint(tmp_path, 110, state())
    assert steps_in(tmp_path) == [30, 100, 110]
    save_checkpoint(tmp_path, 120, state(), keep=1)
    assert steps_in(tmp_path) == [120]
    assert all(stranger.read_text() == "mine" for stranger in strangers)


def test_phase_2_never_removes_what_it_started_from(tmp_path):
    for step in (10, 20, 30, 40):
        save_checkpoint(tmp_path, step, state())
    for step in (45, 50, 55, 60, 65):
        save_checkpoint(tmp_path, step, state(), phase_start_step=40)
    assert steps_in(tmp_path) == [20, 30, 40, 55, 60, 65]


def test_every_nth_of_a_phase_stays_beside_the_last_ones(tmp_path):
    for step in range(10, 90, 10):
        save_checkpoint(tmp_path, step, state(), keep=2, keep_every=30)
    assert steps_in(tmp_path) == [30, 60, 70, 80]
    for step in range(90, 130, 5):  # counted from the phase's start: 105 and 125 are its 20th and 40th
        save_checkpoint(tmp_path, step, state(), keep=1, keep_every=20, phase_start_step=85)
    assert steps_in(tmp_path) == [30, 60, 70, 80, 105, 120, 125]


def contents_of(folder):
    return {path.name: path.read_bytes() if path.is_file() else None for path in folder.iterdir()}


def test_the_last_good_one_goes_only_after_the_new_one_is_whole(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, 1, state(), keep=1)
    before = contents_of(tmp_path)
    write = torch.save

    def look_then_write(contents, file):
        write(contents, file)
        assert steps_in(tmp_path) == [1]
        visible = {name: data for name, data in contents_of(tmp_path).items() if not name.startswith(".")}
        assert visible == before

    monkeypatch.setattr(torch, "save", look_then_write)
    save_checkpoint(tmp_path, 2, state(), keep=1)
    assert steps_in(tmp_path) == [2]


WRITE_WITHOUT_ROOM = """
import resource, signal, sys
import torch
from common.checkpoint_files import find_checkpoints
from common.errors import UserError
from training.checkpointing.checkpoint import PARTS, save_checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that a write fails as it does on a full disk
for n_tensors in (1, 100):
    weights = {str(i): torch.ones(100_000 // n_tensors) for i in range(n_tensors)}
    for limit in (0, 100, 50_000, 399_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        for step in (3, 4):
            try:
                save_checkpoint(sys.argv[1], step, dict.fromkeys(PARTS) | {"model": weights})
            except UserError as error:
                print(error)
"""


def test_a_write_that_ends_early_anywhere_leaves_the_folder_as_it_was(tmp_path):
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, state())
    before = contents_of(tmp_path)
    root = ROOT
    command = [sys.executable, "-c", WRITE_WITHOUT_ROOM, tmp_path]
    result = subprocess.run(command, capture_output=True, text=True, cwd=root, check=True)
    lines = result.stdout.splitlines()
    assert len(lines) == 2 * 4 * 2
    for number, line in enumerate(lines):
        path = tmp_path / f"ckpt_{3 + number % 2}.pt"
        assert line.startswith(f"the checkpoint {path} could not be written (File too large); those written before are")
        assert line.endswith("keep fewer of them with --keep_checkpoints.")
    assert contents_of(tmp_path) == before


def test_a_full_disk_is_named(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        save_checkpoint(folder, 1, state())
        before = contents_of(folder)
        large = state(model={"weight": torch.ones(300_000)})
        with pytest.raises(UserError, match=r"ckpt_2\.pt could not be written \(No space left on device\)"):
            save_checkpoint(folder, 2, large, keep=1)
        assert contents_of(folder) == before
        save_checkpoint(folder, 3, state(), keep=1)
        assert steps_in(folder) == [3]
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/ckpt_1\.pt could not be written \((File exists|Not a directory)\)"):
        save_checkpoint(tmp_path / "file", 1, state())


def test_errors_that_are_not_the_disks_are_not_blamed_on_it(tmp_path, monkeypatch):
    def fail(contents, file):
        raise RuntimeError("a bug")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        save_checkpoint(tmp_path, 1, state())
    assert contents_of(tmp_path) == {}


def test_the_torn_file_of_a_killed_run_is_removed(tmp_path):
    torn = tmp_path / ".ckpt_7.pt.abc.unfinished"
    torn.mkdir()
    (torn / "ckpt_7.pt").write_bytes(b"half")
    save_checkpoint(tmp_path, 8, state())
    assert [path.name for path in tmp_path.iterdir()] == ["ckpt_8.pt"]


def test_no_folder_and_an_empty_one_hold_no_checkpoint(tmp_path):
    assert find_checkpoints(tmp_path / "nowhere") == []
    assert find_checkpoints(tmp_path) == []


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(UserError, match=r"ckpt_9\.pt is damaged or no checkpoint .*No such file.*; check folder"):
        load_checkpoint(tmp_path / "ckpt_9.pt")
    whole = save_checkpoint(tmp_path, 1, state()).read_bytes()
    for damaged in (b"", b"not a checkpoint", whole[: len(whole) // 2], whole[:-30]):
        path = tmp_path / "ckpt_2.pt"
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"ckpt_2\.pt is damaged or no checkpoint .*use an earlier one") as caught:
            load_checkpoint(path)
        assert "\n" not in str(caught.value)


def test_a_flipped_bit_anywhere_is_told_or_harmless(tmp_path):
    path = save_checkpoint(tmp_path, 1, state())
    whole, expected = bytearray(path.read_bytes()), load_checkpoint(path)
    n_told = 0
    for place in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            loaded = load_checkpoint(path)
        except UserError:
            n_told += 1
        else:  # padding, time stamps
            assert str(loaded) == str(expected), f"bit {place % 8} of byte {place}"
    assert n_told > 0
    weights = whole.index(expected["model"]["weight"].numpy().tobytes())
    whole[weights + 5] ^= 1
    path.write_bytes(whole)
    with pytest.raises(UserError, match=r"ckpt_1\.pt is damaged .*wrong checksum"):
        load_checkpoint(path)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux's /proc")
def test_tensors_stay_in_the_file_until_used_and_outlive_it(tmp_path):
    weight = torch.arange(4e6)
    path = save_checkpoint(tmp_path, 1, state(model={"weight": weight}))

    def private_bytes():
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
        return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty"))

    load_checkpoint(path)
    before = private_bytes()
    loaded = load_checkpoint(path)
    assert str(path) in Path("/proc/self/maps").read_text()
    assert float(loaded["model"]["weight"].sum()) > 0  # read, and still not ours alone
    assert private_bytes() - before < weight.nbytes / 4
    loaded["model"]["weight"][:10] = -1
    assert torch.equal(load_checkpoint(path)["model"]["weight"], weight)
    path.unlink()
    assert torch.equal(loaded["model"]["weight"][10:], weight[10:])


@pytest.mark.parametrize(
    "contents",
    [
        {"model": {"weight": torch.ones(2)}},
        [1, 2],
        {**state(), "step": 3},
        {**state(), "step": 3, "format": "bert-benchmark checkpoint, version 1", "random_state": {}},
        {"format": "bert-benchmark checkpoint, version 2", "step": 3, "model": {"weight": torch.ones(2)}},
    ],
)
def test_files_of_other_programs_and_versions_are_told_apart(tmp_path, contents):
    torch.save(contents, tmp_path / "ckpt_1.pt")
    with pytest.raises(
        UserError, match=r"is not a checkpoint that training can resume from.*--init_checkpoint \S+/ckpt_1\.pt"
    ):
        load_checkpoint(tmp_path / "ckpt_1.pt")


def test_files_that_would_run_code_are_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("ran",))

    torch.save({**state(), "extra": Evil()}, tmp_path / "ckpt_1.pt")
    with pytest.raises(UserError, match=r"ckpt_1\.pt holds more than tensors \(\S*print\)"):
        load_checkpoint(tmp_path / "ckpt_1.pt")
