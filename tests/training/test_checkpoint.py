"""Checkpoints: bit-exact there and back, whole or not there, and clear about what they are not."""

import random

import numpy as np
import pytest
import torch

from file_utils import UserError
from training.checkpoint import (
    find_checkpoints,
    latest_checkpoint,
    load_checkpoint,
    load_initial_weights,
    load_weights,
    random_state,
    restore_random_state,
    save_checkpoint,
)


def state(**changes):
    return {
        "model": {"weight": torch.arange(6.0).reshape(2, 3)},
        "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.999)}]},
        "schedule": {"finished_steps": 5},
        "training_step": {"loss_sums": None, "n_losses": 0},
        "random_state": random_state(),
        "data_position": {"epoch": 1, "batch": 17},
        "configuration": {"seed": 42, "init_checkpoint": None, "input_dir": "data"},
        **changes,
    }


def steps_in(folder):
    return [step for step, _ in find_checkpoints(folder)]


def test_training_goes_on_bit_for_bit(tmp_path):
    def build():
        torch.manual_seed(3)
        model = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Dropout(0.3), torch.nn.Linear(4, 1))
        return model, torch.optim.AdamW(model.parameters(), lr=0.01)

    def train(model, optimizer, n_steps):
        losses = []
        for _ in range(n_steps):
            loss = model(torch.randn(8, 5)).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        return losses

    model, optimizer = build()
    train(model, optimizer, 3)
    saved = state(model=model.state_dict(), optimizer=optimizer.state_dict(), random_state=random_state())
    path = save_checkpoint(tmp_path / "run", 3, saved)
    assert path.name == "ckpt_3.pt"
    expected = train(model, optimizer, 4)

    model, optimizer = build()
    loaded = load_checkpoint(latest_checkpoint(tmp_path / "run"))
    model.load_state_dict(loaded["model"])
    optimizer.load_state_dict(loaded["optimizer"])
    restore_random_state(loaded["random_state"])
    assert train(model, optimizer, 4) == expected
    assert loaded["step"] == 3
    assert loaded["data_position"] == {"epoch": 1, "batch": 17}
    assert loaded["optimizer"]["param_groups"][0]["betas"] == (0.9, 0.999)
    assert loaded["configuration"] == saved["configuration"]


@pytest.mark.parametrize("bit_generator", ["PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"])
def test_all_random_sources_go_on_bit_for_bit(tmp_path, bit_generator):
    def new_generator(seed):
        return np.random.Generator(getattr(np.random, bit_generator)(seed))

    def draw(generator):
        # The odd 32-bit and the normal draw leave half-used words behind, which are part of the state.
        return (
            [random.random() for _ in range(3)],
            random.gauss(0, 1),
            np.random.standard_normal(3).tolist(),  # noqa: NPY002
            torch.rand(5).tolist(),
            generator.integers(0, 2**32, 3, dtype=np.uint32).tolist(),
            generator.standard_normal(3).tolist(),
        )

    generator = new_generator(7)
    draw(generator)
    path = save_checkpoint(tmp_path, 1, state(random_state=random_state({"loader": generator})))
    expected = draw(generator)
    other = new_generator(8)
    draw(other)
    restore_random_state(load_checkpoint(path)["random_state"], {"loader": other})
    assert draw(other) == expected


@pytest.mark.gpu
def test_cuda_random_state_goes_on_bit_for_bit(tmp_path):
    torch.cuda.manual_seed(5)
    path = save_checkpoint(tmp_path, 1, state(random_state=random_state()))
    expected = torch.rand(100, device="cuda")
    torch.rand(3, device="cuda")
    restore_random_state(load_checkpoint(path)["random_state"])
    assert torch.equal(torch.rand(100, device="cuda"), expected)


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


def test_a_failed_write_leaves_the_folder_as_it_was(tmp_path, monkeypatch):
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, state())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def write_half(contents, file):
        with open(file, "wb") as out:
            out.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", write_half)
    for step in (3, 4):
        with pytest.raises(OSError, match="No space"):
            save_checkpoint(tmp_path, step, state())
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("value", "where"),
    [
        (np.float64(1.0), r"\['data_position'\]\['a'\]\[0\] is a float64"),
        (torch.float32, "is a dtype"),
        (np.arange(3), "is a ndarray"),
        ({1.5: 0}, "has the key 1.5"),
    ],
)
def test_anything_but_tensors_and_primitives_is_refused_when_saving(tmp_path, value, where):
    with pytest.raises(TypeError, match=where):
        save_checkpoint(tmp_path, 1, state(data_position={"a": [value]}))
    assert steps_in(tmp_path) == []


def test_incomplete_states_and_keeping_none_are_refused(tmp_path):
    incomplete = state()
    del incomplete["data_position"]
    with pytest.raises(ValueError, match="data_position"):
        save_checkpoint(tmp_path, 1, incomplete)
    with pytest.raises(ValueError, match="keep"):
        save_checkpoint(tmp_path, 1, state(), keep=0)


def test_no_folder_and_an_empty_one_hold_no_checkpoint(tmp_path):
    assert find_checkpoints(tmp_path / "nowhere") == []
    assert latest_checkpoint(tmp_path / "nowhere") is None
    assert latest_checkpoint(tmp_path) is None


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(UserError, match=r"there is no checkpoint .*ckpt_9\.pt; check"):
        load_checkpoint(tmp_path / "ckpt_9.pt")
    whole = save_checkpoint(tmp_path, 1, state()).read_bytes()
    for damaged in (b"", b"not a checkpoint", whole[: len(whole) // 2], whole[:-30]):
        path = tmp_path / "ckpt_2.pt"
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"ckpt_2\.pt is damaged or no checkpoint .*use an earlier one") as caught:
            load_checkpoint(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("contents", [{"model": {"weight": torch.ones(2)}}, [1, 2], {**state(), "step": 3}])
def test_files_of_other_programs_are_told_apart(tmp_path, contents):
    torch.save(contents, tmp_path / "ckpt_1.pt")
    with pytest.raises(UserError, match=r"is not a checkpoint that training can resume from.*--init_checkpoint"):
        load_checkpoint(tmp_path / "ckpt_1.pt")


def test_files_that_would_run_code_are_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("ran",))

    torch.save({**state(), "extra": Evil()}, tmp_path / "ckpt_1.pt")
    with pytest.raises(UserError, match="damaged or no checkpoint"):
        load_checkpoint(tmp_path / "ckpt_1.pt")


def network(width=3):
    return torch.nn.ModuleDict({"body": torch.nn.Linear(2, width), "head": torch.nn.Linear(width, 1)})


@pytest.mark.parametrize("form", ["ours", "nvidias", "state_dict"])
def test_initial_weights_come_from_every_kind_of_file(tmp_path, form):
    source, model = network(), network()
    weights = source.state_dict()
    path = tmp_path / "weights.pt"
    if form == "ours":
        path = save_checkpoint(tmp_path, 1, state(model=weights))
    elif form == "nvidias":
        torch.save({"model": {f"module.{name}": weight for name, weight in weights.items()}, "epoch": 3}, path)
    else:
        torch.save(weights, path)
    load_initial_weights(model, load_weights(path), path)
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, weights[name])


@pytest.mark.parametrize("contents", [{}, [torch.ones(2)], {"model": {"body.weight": "text"}}, {"model": 3}])
def test_files_without_weights_are_refused(tmp_path, contents):
    torch.save(contents, tmp_path / "weights.pt")
    with pytest.raises(UserError, match=r"weights\.pt holds no weights"):
        load_weights(tmp_path / "weights.pt")


def test_weights_of_another_model_are_refused_by_name(tmp_path):
    lacking = {name: weight for name, weight in network().state_dict().items() if name != "head.bias"}
    left_over = {**network().state_dict(), "other.weight": torch.ones(1)}
    for weights, name in (
        (lacking, "head.bias"),
        (left_over, "other.weight"),
        (network(5).state_dict(), "body.weight"),
    ):
        with pytest.raises(UserError, match=rf"the weights in some\.pt are not those of this model .*{name}"):
            load_initial_weights(network(), weights, "some.pt")
