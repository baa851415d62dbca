"""What run_pretraining refuses, all of it at once and before any work, and what stops a run on its way."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from paths import ROOT
from pretraining_runs import (
    LENGTH,
    PREDICTIONS,
    VOCAB,
    command,
    contents,
    copied,
    curve,
    losses,
    make_inputs,
    write_config,
)
from shards import write_shards

from common.checkpoint_files import find_checkpoints
from common.errors import UserError
from data.artifacts.manifest import FileRecord, Manifest
from file_utils import sha256_of
from modeling import BertForPreTraining
from models.config import BertConfig
from run_pretraining import main
from training.distributed.world import World


@pytest.fixture
def folder(tmp_path):
    return make_inputs(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run of 8 steps with checkpoints after 4 and 8. Copy it before changing it."""
    folder = make_inputs(tmp_path_factory.mktemp("finished"))
    main(command(folder, num_steps_per_checkpoint=4, eval_dir=folder / "test"))
    return folder


def refusal(arguments):
    """The sentences that a command line is refused with; nothing may have been written for it."""
    output = Path(arguments[arguments.index("--output_dir") + 1])
    before = contents(output)
    with pytest.raises(UserError) as raised:
        main(arguments)
    assert contents(output) == before
    return raised.value.sentences


def test_everything_wrong_is_said_at_once_and_before_anything_is_written(folder):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{i}" for i in range(VOCAB - 2))]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    arguments = command(
        folder,
        input_dir=folder / "nowhere",
        eval_dir=folder / "test",
        max_predictions_per_seq=PREDICTIONS + 1,
        vocab_file=folder / "vocab.txt",
        train_batch_size=10,
        gradient_accumulation_steps=4,
        warmup_proportion=1.5,
        learning_rate=-1,
        num_train_epochs=3,
        max_seq_length=64,
        benchmark_start=-2,
        init_checkpoint=folder / "missing.pt",
        resume_phase2=True,
    )
    found = refusal(arguments)
    expected = [
        f"no data folder {folder / 'nowhere'}",
        "not of the --max_seq_length 64",
        f"not of the --max_predictions_per_seq {PREDICTIONS + 1}",
        "--max_seq_length 64 is longer than the model's max_position_embeddings 32",
        f"{VOCAB + 3} entries and the model's configuration says vocab_size {VOCAB}",
        "--train_batch_size 10 is not a multiple of --gradient_accumulation_steps 4",
        "--warmup_proportion is 1.5",
        "--learning_rate is -1.0",
        "either --max_steps or --num_train_epochs",
        "missing.pt",
        "--resume_phase2 belongs to phase 2",
        "--benchmark_start -2 must not be negative",
    ]
    for part in expected:
        assert sum(part in sentence for sentence in found) == 1, (part, found)
    assert len(found) == len(expected)
    assert not (folder / "out").exists()


def test_shards_of_another_length(folder):
    (found,) = refusal(command(folder, max_seq_length=24))
    assert f"holds sequences of {LENGTH} tokens, not of the --max_seq_length 24 asked for" in found


def test_made_sequences_with_more_predictions_than_tokens(folder):
    made = {"input_dir": None, "synthetic": "full", "max_predictions_per_seq": LENGTH + 1}
    (found,) = refusal(command(folder, **made))
    assert found.startswith(f"--max_predictions_per_seq {LENGTH + 1} is more than --max_seq_length {LENGTH} has tokens")


def test_unknown_keys_and_impossible_values_in_a_configuration(folder):
    write_config(folder / "config.json", hiden_size=3, n_layer=2)
    found = refusal(command(folder, log_freq=0))
    assert len(found) == 3
    for part in ("'hiden_size'", "'n_layer'", "--log_freq"):
        assert sum(part in sentence for sentence in found) == 1


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"type_vocab_size": 1}, "type_vocab_size is 1, and its data are pairs of two segments"),
        (
            {"hidden_size": 2**16, "intermediate_size": 2**18, "num_hidden_layers": 20},
            # 16 bytes for each of 20 layers' 2 ** 34 weights in attention and 2 ** 35 beside it, and the heads' 2 ** 33
            "gradients and moments take 16,630 GB of this device's",
        ),
    ],
)
def test_a_model_that_the_data_or_the_memory_cannot_have(folder, changes, sentence):
    write_config(folder / "config.json", **changes)
    assert sentence in refusal(command(folder))[0]


@pytest.mark.parametrize("error", [MemoryError("no"), RuntimeError("DefaultCPUAllocator: can't allocate memory: you")])
def test_memory_that_runs_out_is_a_sentence(folder, monkeypatch, error):
    def losses(*arguments):
        raise error

    monkeypatch.setattr("training.run.TrainingRun.losses", losses)
    with pytest.raises(UserError, match=r"this machine is out of memory with micro-batches of 4 .*--micro_batch_size"):
        main(command(folder))


def test_a_vocabulary_that_is_not_there(folder):
    (found,) = refusal(command(folder, vocab_file=folder / "vocab.txt"))
    assert "vocab.txt" in found


@pytest.mark.parametrize(
    "changes",
    [
        {"train_batch_size": 0, "max_steps": None, "num_train_epochs": 1},
        {"train_batch_size": -8},
        {"gradient_accumulation_steps": 0},
        {"gradient_accumulation_steps": -2},
        {"max_steps": -1},
        {"max_steps": None, "num_train_epochs": "nan"},
        {"max_steps": None, "num_train_epochs": "inf"},
        {"max_steps": None},
        {"steps_this_run": 0},
        {"steps_this_run": -2},
        {"seed": -1},
        {"seed": 2**63},
        {"num_workers": -1},
        {"keep_checkpoints": 0},
        {"weight_decay": -1, "optimizer": "adamw"},
        {"phase1_end_step": -1, "phase2": True},
    ],
)
def test_impossible_values_are_refused_with_one_sentence(folder, changes):
    (found,) = refusal(command(folder, **changes))
    assert any(name in found for name in changes)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"benchmark_start": -1}, "must not be negative"),
        ({"benchmark_start": 8}, "leaves nothing to measure in 8 steps"),
        ({"benchmark_start": 3, "steps_this_run": 3}, "leaves nothing to measure in 3 steps"),
        ({"benchmark_start": 4, "benchmark_stop": 4}, "--benchmark_stop 4 must be greater"),
    ],
)
def test_windows_that_measure_nothing(folder, changes, sentence):
    found = refusal(command(folder, log_freq=0, **changes))
    assert sum(sentence in problem for problem in found) == 1
    assert any("--log_freq" in problem for problem in found)


def test_an_output_folder_with_checkpoints_and_no_word_about_them(finished, tmp_path):
    folder = copied(finished, tmp_path)
    (found,) = refusal(command(folder))
    assert "holds checkpoints already, up to ckpt_8.pt; add --resume_from_checkpoint" in found
    main(command(folder, skip_checkpoint=True, steps_this_run=1))  # writes none, so none is in danger


def test_checkpoints_of_another_model_or_optimizer(finished, tmp_path):
    folder = copied(finished, tmp_path)
    write_config(folder / "config.json", hidden_size=32)
    (model, optimizer) = refusal(command(folder, resume_from_checkpoint=True, optimizer="adamw"))
    assert "ckpt_8.pt is of another model (hidden_size 16 there and 32 here)" in model
    assert "holds the state of --optimizer lamb, not of adamw" in optimizer


def test_a_checkpoint_of_other_data(finished, tmp_path):
    folder = copied(finished, tmp_path)
    (found,) = refusal(command(folder, resume_from_checkpoint=True, max_steps=9, seed=7))
    assert "55 sequences in the order of seed 42" in found
    write_shards(folder / "data", rows_per_file=(30, 25, 9))
    (found,) = refusal(command(folder, resume_from_checkpoint=True, max_steps=9))
    assert "holds 64 with seed 42" in found


def test_a_step_that_is_not_there(finished, tmp_path):
    folder = copied(finished, tmp_path)
    (folder / "out" / "ckpt_8.pt").rename(folder / "ckpt_8.pt")
    (found,) = refusal(command(folder, resume_from_checkpoint=True, resume_step=6))
    (folder / "ckpt_8.pt").rename(folder / "out" / "ckpt_8.pt")
    assert "has no ckpt_6.pt to resume from (it has [4])" in found
    (found,) = refusal(command(folder, resume_from_checkpoint=True, resume_step=9))
    assert "--resume_step 9 lies outside this phase, which goes from 0 to 8" in found


def test_a_phase_1_shorter_than_its_checkpoints_does_not_start_over(finished, tmp_path):
    folder = copied(finished, tmp_path)
    (found,) = refusal(command(folder, resume_from_checkpoint=True, max_steps=3))
    assert "holds checkpoints from step 4 on, and this phase ends at 3" in found


def test_phase_2_without_what_it_starts_from(finished, tmp_path):
    folder = copied(finished, tmp_path)
    phase2 = {"resume_from_checkpoint": True, "phase2": True}
    (found,) = refusal(command(folder, **phase2, phase1_end_step=8, resume_phase2=True))
    assert "has no checkpoint of phase 2" in found
    (found,) = refusal(command(folder, **phase2))
    assert "has no ckpt_7038.pt to resume from (it has [4, 8])" in found
    assert "--phase1_end_step" in found


@pytest.mark.parametrize("damage", ["cut", "changed", "empty"])
def test_a_damaged_checkpoint_is_reported_and_the_one_before_it_used(finished, tmp_path, damage, capsys):
    folder = copied(finished, tmp_path)
    path = folder / "out" / "ckpt_8.pt"
    whole = path.read_bytes()
    middle = len(whole) // 2
    path.write_bytes({"cut": whole[:middle], "changed": b"garbage" + whole[7:], "empty": b""}[damage])
    (found,) = refusal(command(folder, resume_from_checkpoint=True, resume_step=8))
    assert "ckpt_8.pt is damaged" in found
    capsys.readouterr()
    main(command(folder, resume_from_checkpoint=True))
    printed = capsys.readouterr().out
    assert "ckpt_8.pt is damaged" in printed
    assert "Trying the one before it" in printed
    assert losses(folder / "out") == losses(finished / "out")
    for name in ("ckpt_4.pt", "ckpt_8.pt"):
        (folder / "out" / name).write_bytes(b"")
    (found,) = refusal(command(folder, resume_from_checkpoint=True))
    assert "ckpt_4.pt is damaged" in found


@pytest.mark.parametrize("wrong", ["shape", "missing weight", "no weights"])
def test_initial_weights_of_another_model_are_among_the_problems(folder, wrong):
    weights = BertForPreTraining(BertConfig.from_json_file(folder / "config.json")).state_dict()
    name = "bert.encoder.layer.1.output.dense.weight"
    if wrong == "missing weight":
        del weights[name]
    elif wrong == "shape":
        weights[name] = weights[name][:, :7].clone()
    else:
        weights = {"step": 3}
    torch.save(weights, folder / "weights.pt")
    found = refusal(command(folder, init_checkpoint=folder / "weights.pt", log_freq=0))
    assert len(found) == 2
    assert "weights.pt" in found[1]
    assert wrong == "no weights" or name in found[1]


def test_weights_of_another_casing_than_the_shards(folder):
    weights = BertForPreTraining(BertConfig.from_json_file(folder / "config.json")).state_dict()
    (folder / "model").mkdir()
    torch.save(weights, folder / "model/weights.pt")
    settings, shards = folder / "model/tokenizer_config.json", folder / "data"
    records = {file.name: FileRecord.of(file) for file in shards.glob("*.hdf5")}
    call = command(folder, init_checkpoint=folder / "model/weights.pt", check_only=True)
    for made, says in ((True, False), (False, True), (False, False), (None, False), (True, None)):
        parameters = {} if made is None else {"do_lower_case": made}
        Manifest("create_hdf5_files", "sample", parameters, {}, records).write(shards / "manifest.json")
        settings.write_text(json.dumps({"do_lower_case": says}))
        if made is None or says is None or made == says:
            main(call)
            continue
        (found,) = refusal(call)
        assert f"the shards in {shards} were made with do_lower_case {made}, and {settings} says {says}; make" in found
        assert f"--do_lower_case {int(says)}." in found
    Manifest("create_hdf5_files", "sample", {"do_lower_case": True}, {}, records).write(shards / "manifest.json")
    settings.write_text('{"tokenizer_class": "BertJapaneseTokenizer"}')
    assert "BertJapaneseTokenizer" in refusal(call)[0]


def test_weights_with_another_vocabulary_than_the_shards(folder):
    weights = BertForPreTraining(BertConfig.from_json_file(folder / "config.json")).state_dict()
    (folder / "model").mkdir()
    torch.save(weights, folder / "model/weights.pt")
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"t{i}" for i in range(VOCAB - 5))]
    for name, last in (("theirs.txt", "y"), ("model/vocab.txt", "x")):
        (folder / name).write_text("\n".join([*tokens[:-1], last]) + "\n", encoding="utf-8")
    records = {file.name: FileRecord.of(file) for file in (folder / "data").glob("*.hdf5")}
    vocabulary = {"sha256": sha256_of(folder / "theirs.txt"), "size": VOCAB}
    manifest = Manifest("create_hdf5_files", "sample", {"vocabulary": vocabulary}, {}, records)
    manifest.write(folder / "data" / "manifest.json")
    flags = {"init_checkpoint": folder / "model/weights.pt", "check_only": True}
    (found,) = refusal(command(folder, **flags))
    assert f"were not made with {folder / 'model/vocab.txt'}, the vocabulary of the initial weights; make them" in found
    main(command(folder, **flags, vocab_file=folder / "theirs.txt"))
    shutil.copy(folder / "theirs.txt", folder / "model/vocab.txt")
    main(command(folder, **flags))


def test_evaluation_needs_weights(folder):
    evaluation = {"do_train": False, "max_steps": None, "eval_dir": folder / "test"}
    (found,) = refusal(command(folder, **evaluation))
    assert "there are no weights to evaluate" in found
    (found,) = refusal(command(folder, **evaluation, resume_from_checkpoint=True))
    assert "holds no checkpoint to evaluate" in found


def test_a_program_that_is_refused_ends_with_status_2_and_no_traceback(folder):
    arguments = command(folder, input_dir=folder / "nowhere", train_batch_size=9)
    finished = subprocess.run(
        [sys.executable, str(ROOT / "run_pretraining.py"), *arguments],
        cwd=folder,  # not the project's: it must run from anywhere
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert finished.returncode == 2
    assert finished.stdout == ""
    lines = finished.stderr.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("error: ") for line in lines)
    assert "--train_batch_size 9 is not a multiple" in lines[0]
    assert "nowhere" in lines[1]
    assert not (folder / "out").exists()


# What goes wrong on the way.


def test_a_loss_that_is_no_number_stops_the_run_and_costs_no_good_checkpoint(finished, tmp_path):
    folder = copied(finished, tmp_path)
    changes = {"max_steps": 40, "learning_rate": 1e30, "log_freq": 1000, "num_steps_per_checkpoint": 3}
    with pytest.raises(UserError, match=r"the loss is (nan|inf).* at step \d+, and there is no way back") as raised:
        main(command(folder, resume_from_checkpoint=True, keep_checkpoints=1, **changes))
    assert "--learning_rate" in str(raised.value)
    for _, path in find_checkpoints(folder / "out"):
        weights = torch.load(path, weights_only=True)["model"]
        assert all(weight.isfinite().all() for weight in weights.values())
    last = list(curve(folder / "out").values())[-1]
    assert not math.isfinite(float(last["average_loss"]))  # the log says what happened


def test_a_gradient_that_is_no_number_stops_the_run_too(folder, monkeypatch):
    monkeypatch.setattr("training.step.gradient_norm", lambda groups: torch.tensor(math.inf))
    with pytest.raises(UserError, match="the gradient norm inf at step 1"):
        main(command(folder, num_steps_per_checkpoint=1))
    assert find_checkpoints(folder / "out") == []


def test_shards_with_impossible_contents_stop_the_run_by_name(folder):
    write_config(folder / "config.json", vocab_size=20)  # smaller than the ids in the shards
    with pytest.raises(UserError, match=r"\.hdf5 holds 39 in input_ids, which takes 0 to 19"):
        main(command(folder))


def test_one_folder_for_two_purposes_is_complained_of_once(folder):
    (found,) = refusal(command(folder, input_dir=folder / "nowhere", eval_dir=folder / "nowhere"))
    assert found.startswith(f"There is no data folder {folder / 'nowhere'}")


def test_gpus_with_room_for_different_micro_batches(folder, monkeypatch):
    """What another rank has to say is added here to what this one gathers."""
    monkeypatch.setattr(World, "gather", lambda world, value: [value, value // 2 if isinstance(value, int) else value])
    with pytest.raises(UserError) as raised:
        main(command(folder))
    assert "micro-batches, of 2, 4 sequences" in str(raised.value)
    assert "give --micro_batch_size 2." in str(raised.value)
