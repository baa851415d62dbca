"""run_pretraining as its user runs it: what it logs and writes, and what starts and ends a run."""

import json
import math
import os
import shutil
import sys

import h5py
import mlflow_runs
import pytest
import torch
from pretraining_runs import (
    LENGTH,
    PREDICTIONS,
    command,
    contents,
    copied,
    curve,
    losses,
    make_inputs,
    summary,
    write_config,
)
from shards import write_shards

from common.checkpoint_files import find_checkpoints
from common.errors import UserError
from data.loading.pretraining_dataset import PretrainingDataset
from file_utils import locked
from modeling import BertForPreTraining
from models.config import BertConfig
from run_pretraining import main
from tasks.pretraining.task import PretrainingTask
from training.metrics.logger import read_log

WITHOUT_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@pytest.fixture
def folder(tmp_path):
    return make_inputs(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run of 8 steps with checkpoints after 4 and 8. Copy it before changing it."""
    folder = make_inputs(tmp_path_factory.mktemp("finished"))
    main(command(folder, num_steps_per_checkpoint=4, eval_dir=folder / "test"))
    return folder


def events(folder):
    return read_log(folder / "out" / "dllogger.json")


def test_the_log_describes_its_run(finished):
    (parameters,) = [event["data"] for event in events(finished) if event.get("step") == "PARAMETER"]
    arguments = parameters["arguments"]
    assert arguments["train_batch_size"] == 8
    assert arguments["weight_decay"] == 0.01  # a default, resolved
    assert parameters["model"]["hidden_size"] == 16
    assert parameters["model"]["hidden_dropout_prob"] == 0.1
    assert parameters["precision"] == "fp32"
    assert parameters["environment"]["torch"] == torch.__version__
    assert parameters["environment"]["cpu_cores"] >= 1
    assert (parameters["first_step"], parameters["total_steps"], parameters["training_samples"]) == (0, 8, 55)
    described = {event["metric"] for event in events(finished) if event["type"] == "METADATA"}
    assert described >= set(curve(finished / "out")[1, 1])


def test_the_last_line_is_the_run_as_a_whole(finished):
    whole = [event for event in events(finished) if event.get("step") == []]
    assert len(whole) == 1
    assert events(finished)[-1] == whole[0]
    data = whole[0]["data"]
    assert data["measured_steps"] == 8 - 1  # a fifth of the steps is warm-up
    assert data["sequences"] == 7 * 8
    assert data["sequences_per_second"] == pytest.approx(data["sequences"] / data["seconds"])
    assert data["tokens_per_second"] == pytest.approx(data["tokens"] / data["seconds"])
    assert data["step_seconds"] == pytest.approx(data["seconds"] / 7)
    assert data["masked_tokens"] == 7 * 8 * PREDICTIONS
    assert data["model_tflops_per_second"] > 0
    assert data["final_loss"] == losses(finished / "out")[-1]
    assert data["e2e_time"] > data["seconds"]


def test_nvidias_flag_for_logits_at_every_token_changes_no_loss(folder):
    """But by other dropout masks, as the last layer computes every token too."""
    write_config(folder / "config.json", **WITHOUT_DROPOUT)
    main(command(folder, skip_checkpoint=True))
    flags = {"no_dense_sequence_output": True, "disable_jit_fusions": True, "skip_checkpoint": True}
    main(command(folder, output_dir=folder / "everywhere", **flags))
    assert losses(folder / "everywhere") == pytest.approx(losses(folder / "out"), rel=1e-5)


def test_a_deterministic_run_takes_nothing_that_is_not(finished, tmp_path):
    """PyTorch refuses operations that it cannot make deterministic, and all are asked on a CPU too."""
    folder = copied(finished, tmp_path)
    main(command(folder, output_dir=folder / "repeated", deterministic=True))
    assert losses(folder / "repeated") == losses(folder / "out")
    assert not torch.are_deterministic_algorithms_enabled()


def test_real_tokens_are_counted_and_padding_is_not(folder):
    # 55 sequences in two files: the window goes over the end of a file, and with the 56th over that of the epoch.
    main(command(folder, skip_checkpoint=True, benchmark_start=2, benchmark_stop=8))
    with PretrainingDataset(folder / "data", 8, LENGTH, PREDICTIONS, seed=42, num_workers=0).iterate() as batches:
        tokens = [next(batches).work.sum_lengths for _ in range(8)]
    data = summary(folder / "out")
    assert (data["measured_steps"], data["sequences"], data["tokens"]) == (6, 6 * 8, sum(tokens[2:8]))


def test_losses_are_logged_as_means_since_the_last_line(finished, tmp_path):
    folder = copied(finished, tmp_path)
    shutil.rmtree(folder / "out")
    main(command(folder, log_freq=3))
    each, logged = losses(finished / "out"), curve(folder / "out")
    assert list(logged) == [(1, 1), (1, 3), (1, 6), (1, 8)]
    expected = [each[0], sum(each[1:3]) / 2, sum(each[3:6]) / 3, sum(each[6:8]) / 2]
    assert [values["average_loss"] for values in logged.values()] == pytest.approx(expected, rel=1e-6)


def test_rates_follow_nvidias_formula_and_phase_2_starts_anew(folder):
    def nvidia(step, total, warmup, rate):
        progress = step / total
        return rate * (progress / warmup if progress < warmup else (1.0 - progress) ** 0.5)

    main(command(folder, max_steps=9, warmup_proportion=0.2843, learning_rate=6e-3))
    phase2 = {"phase2": True, "phase1_end_step": 9, "resume_from_checkpoint": True}
    phase2 |= {"max_steps": 7, "warmup_proportion": 0.128, "learning_rate": 4e-3}
    main(command(folder, **phase2, steps_this_run=3))
    main(command(folder, **phase2))
    logged = {key: values["learning_rate"] for key, values in curve(folder / "out").items()}
    expected = {(1, step): nvidia(step, 9, 0.2843, 6e-3) for step in range(1, 10)}
    expected |= {(2, step): nvidia(step, 7, 0.128, 4e-3) for step in range(1, 8)}
    assert logged == pytest.approx(expected, rel=1e-12)


def test_checkpoints_are_kept_and_named_as_asked(folder, capsys):
    main(command(folder, num_steps_per_checkpoint=3, keep_checkpoints=2))
    assert [step for step, _ in find_checkpoints(folder / "out")] == [6, 8]
    last_line = capsys.readouterr().out.splitlines()[-1]
    assert last_line == f"log: {folder / 'out' / 'dllogger.json'} | checkpoint: {folder / 'out' / 'ckpt_8.pt'}"


def test_the_summary_goes_where_it_is_told(folder):
    main(command(folder, skip_checkpoint=True, **{"json-summary": folder / "logs" / "run.json"}))
    assert len(read_log(folder / "logs" / "run.json")) > 8
    assert os.listdir(folder / "out") == [".lock"]


# What starts and ends it.


def test_weights_of_nvidias_files_start_a_run(folder):
    write_config(folder / "config.json", **WITHOUT_DROPOUT)
    torch.manual_seed(5)
    model = BertForPreTraining(BertConfig.from_json_file(folder / "config.json"))
    theirs = {}
    for name, weight in model.state_dict().items():
        if "intermediate" in name or "pooler" in name or "transform.dense" in name:
            name = name.replace("dense.", "dense_act.")
        theirs[f"module.{name}"] = weight
    torch.save({"model": theirs, "epoch": 3, "files": ["a.hdf5"]}, folder / "theirs.pt")
    main(command(folder, init_checkpoint=folder / "theirs.pt", max_steps=1, gradient_accumulation_steps=1))
    with PretrainingDataset(folder / "data", 8, LENGTH, PREDICTIONS, seed=42, num_workers=0).iterate() as batches:
        batch = next(batches)
    inputs = ("input_ids", "token_type_ids", "position_ids", "cu_seqlens", "max_seqlen", "masked_lm_positions")
    expected = model(*(getattr(batch, name) for name in (*inputs, "masked_lm_labels", "next_sentence_labels")))
    assert losses(folder / "out") == [expected.loss.item()]


def test_epochs_are_turned_into_steps(folder):
    main(command(folder, max_steps=None, num_train_epochs=1.5, skip_checkpoint=True))
    assert len(losses(folder / "out")) == math.ceil(1.5 * 55 / 8)


def test_evaluation_alone_gives_what_the_training_run_gave_at_its_end(finished, tmp_path, capsys):
    folder = copied(finished, tmp_path)
    trained = summary(folder / "out")
    checkpoints = contents(folder / "out")
    # Neither the training data nor the optimizer matters to it.
    write_shards(folder / "data", rows_per_file=(9,))
    evaluation = {"do_train": False, "max_steps": None, "eval_dir": folder / "test", "optimizer": "adamw"}
    main(command(folder, **evaluation, resume_from_checkpoint=True))
    assert "evaluating the weights of step 8" in capsys.readouterr().out
    evaluated = summary(folder / "out")
    scores = {name: value for name, value in trained.items() if name.startswith("eval_")}
    assert len(scores) == 6
    assert {name: evaluated.get(name) for name in scores} == scores
    assert scores["eval_n_sequences"] == 7
    assert evaluated.keys() == {*scores, "e2e_time"}
    assert {path: data for path, data in contents(folder / "out").items() if path.suffix == ".pt"} == {
        path: data for path, data in checkpoints.items() if path.suffix == ".pt"
    }
    main(command(folder, **evaluation, init_checkpoint=folder / "out" / "ckpt_4.pt"))
    assert summary(folder / "out")["eval_mlm_loss"] != scores["eval_mlm_loss"]


def test_evaluation_equals_the_model_by_hand(finished):
    """Dropout is off, every held-out sequence counts once, and the weights are the last step's."""
    model = BertForPreTraining(BertConfig.from_json_file(finished / "config.json"))
    model.load_state_dict(torch.load(finished / "out" / "ckpt_8.pt", weights_only=True)["model"])
    model.eval()
    with h5py.File(next((finished / "test").glob("*.hdf5"))) as shard:
        rows = {name: torch.from_numpy(shard[name][:]).long() for name in shard}
    mlm_losses, nsp_losses = [], []
    for i in range(7):
        length = int(rows["input_mask"][i].sum())
        output = model(
            rows["input_ids"][i, :length],
            rows["segment_ids"][i, :length],
            torch.arange(length),
            torch.tensor([0, length], dtype=torch.int32),
            length,
            rows["masked_lm_positions"][i],
            rows["masked_lm_ids"][i],
            rows["next_sentence_labels"][i : i + 1],
        )
        mlm_losses.append(output.mlm_loss.item())
        nsp_losses.append(output.nsp_loss.item())
    scores = summary(finished / "out")
    assert scores["eval_mlm_loss"] == pytest.approx(sum(mlm_losses) / 7, rel=1e-5)
    assert scores["eval_nsp_loss"] == pytest.approx(sum(nsp_losses) / 7, rel=1e-5)
    assert (scores["eval_n_masked"], scores["eval_n_sequences"]) == (7 * PREDICTIONS, 7)


@pytest.mark.parametrize("flags", [{"checkpoint_activations": True}, {"num_workers": 0}, {"json-summary": None}])
def test_flags_that_must_not_change_the_losses(finished, tmp_path, flags):
    folder = copied(finished, tmp_path)
    shutil.rmtree(folder / "out")
    main(command(folder, **flags))
    assert losses(folder / "out") == pytest.approx(losses(finished / "out"), rel=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("optimizer", "rate"), [("lamb", 0.05), ("adamw", 0.01)])
def test_it_learns(folder, optimizer, rate, precision):
    """What can be had without looking at the neighbors, the frequencies, is ln(35) + ln(2) = 4.25."""
    write_config(folder / "config.json", hidden_size=32, **WITHOUT_DROPOUT)
    changes = {"optimizer": optimizer, "learning_rate": rate, "precision": precision, "skip_checkpoint": True}
    main(command(folder, max_steps=120, log_freq=20, gradient_accumulation_steps=1, **changes))
    assert losses(folder / "out")[-1] < 3.2


@pytest.mark.slow
def test_compiled_losses_are_the_same(folder):
    if not shutil.which(os.environ.get("CXX", "g++")):
        pytest.skip("torch.compile needs a C++ compiler on the CPU, and there is none here")
    write_config(folder / "config.json", num_hidden_layers=1, **WITHOUT_DROPOUT)
    changes = {"train_batch_size": 1, "gradient_accumulation_steps": 1, "max_steps": 4}  # one shape, compiled once
    for compiled in (False, True):
        output = folder / f"compiled_{compiled}"
        main(command(folder, output_dir=output, compile=compiled, skip_checkpoint=True, **changes))
    assert losses(folder / "compiled_True") == pytest.approx(losses(folder / "compiled_False"), rel=1e-4)


def test_a_log_can_be_read_by_line(finished):
    for line in (finished / "out" / "dllogger.json").read_text(encoding="utf-8").splitlines():
        assert line.startswith("DLLL ")
        json.loads(line.removeprefix("DLLL "))


def test_evaluation_every_few_steps_and_at_the_end(folder):
    main(command(folder, eval_dir=folder / "test", num_steps_per_evaluation=3, num_steps_per_checkpoint=3))
    evaluated = {step: values for (_, step), values in curve(folder / "out").items() if "eval_mlm_loss" in values}
    assert list(evaluated) == [3, 6, 8]
    evaluation = {"do_train": False, "max_steps": None, "eval_dir": folder / "test", "resume_from_checkpoint": True}
    for step in (3, 6, 8):
        main(command(folder, **evaluation, resume_step=step))
        alone = {name: value for name, value in summary(folder / "out").items() if name.startswith("eval_")}
        assert alone == {name: value for name, value in evaluated[step].items() if name.startswith("eval_")}


def test_an_evaluation_that_a_run_was_killed_in_is_made_up_for(folder, monkeypatch):
    flags = {"eval_dir": folder / "test", "num_steps_per_evaluation": 3, "resume_from_checkpoint": True}
    with monkeypatch.context() as patched:
        patched.setattr(PretrainingTask, "evaluate", lambda *_: sys.exit("killed"))
        with pytest.raises(SystemExit, match="killed"):
            main(command(folder, **flags))
    assert [step for step, _ in find_checkpoints(folder / "out")] == [3]
    main(command(folder, **flags))
    evaluated = {step: values for (_, step), values in curve(folder / "out").items() if "eval_mlm_loss" in values}
    assert list(evaluated) == [3, 6, 8]
    main(command(folder, **flags, output_dir=folder / "straight"))
    expected = curve(folder / "straight")
    for step, values in evaluated.items():
        assert values | {"training_seconds": None} == expected[1, step] | {"training_seconds": None}


def test_evaluation_in_between_changes_no_loss_and_is_not_measured(finished, tmp_path):
    folder = copied(finished, tmp_path)
    shutil.rmtree(folder / "out")
    main(command(folder, eval_dir=folder / "test", num_steps_per_evaluation=1))
    assert losses(folder / "out") == losses(finished / "out")
    here, there = summary(folder / "out"), summary(finished / "out")
    assert (here["sequences"], here["measured_steps"]) == (there["sequences"], there["measured_steps"])


def test_boards_show_what_the_log_has(folder, monkeypatch):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    mlflow = pytest.importorskip("mlflow")
    for name, value in mlflow_runs.environment(folder).items():
        monkeypatch.setenv(name, value)
    board = folder / "board"
    boards = {"tensorboard_dir": board, "mlflow_experiment": "bert"}
    main(command(folder, **boards, eval_dir=folder / "test", num_steps_per_evaluation=4))
    phase2 = {"phase2": True, "phase1_end_step": 8, "resume_from_checkpoint": True}
    main(command(folder, **boards, max_steps=2, **phase2))
    logged = curve(folder / "out")
    expected = {step + 8 * (phase - 1): values["average_loss"] for (phase, step), values in logged.items()}
    assert list(expected) == list(range(1, 11))

    shown = event_accumulator.EventAccumulator(str(board)).Reload()
    assert {event.step: event.value for event in shown.Scalars("average_loss")} == pytest.approx(expected)
    assert [event.step for event in shown.Scalars("eval_mlm_loss")] == [4, 8]

    (run,) = mlflow_runs.all_runs(mlflow, "bert")
    losses_shown = mlflow.MlflowClient().get_metric_history(run.info.run_id, "average_loss")
    assert {metric.step: metric.value for metric in losses_shown} == expected
    assert len(losses_shown) == 10
    assert run.data.params["arguments/max_steps"] == "8"
    assert run.data.params["arguments/max_steps after step 8"] == "2"


def test_weights_to_begin_with_count_only_where_nothing_is_to_be_resumed(folder, capsys):
    main(command(folder, max_steps=2))
    os.rename(folder / "out" / "ckpt_2.pt", folder / "weights.pt")
    shutil.rmtree(folder / "out")
    both = {"init_checkpoint": folder / "weights.pt", "resume_from_checkpoint": True, "num_steps_per_checkpoint": 4}
    main(command(folder, **both, steps_this_run=4))
    assert f"starting fresh, from the weights of {folder / 'weights.pt'}" in capsys.readouterr().out
    main(command(folder, **both))
    assert "going on after step 4" in capsys.readouterr().out
    together = losses(folder / "out")
    shutil.rmtree(folder / "out")
    main(command(folder, init_checkpoint=folder / "weights.pt"))
    assert losses(folder / "out") == together


def test_every_nth_checkpoint_stays(folder):
    main(command(folder, num_steps_per_checkpoint=1, keep_checkpoints=2, keep_every=3))
    assert [step for step, _ in find_checkpoints(folder / "out")] == [3, 6, 7, 8]


def test_the_micro_batch_is_what_the_cpu_takes_or_what_it_is_told(folder, capsys):
    batch = {"train_batch_size": None, "gradient_accumulation_steps": None, "max_steps": 1}
    main(command(folder, **batch, global_batch_size=48))
    assert "global batch 48 = micro-batch 24 x 2 accumulated x 1 process | " in capsys.readouterr().out
    shutil.rmtree(folder / "out")
    main(command(folder, **batch, global_batch_size=48, micro_batch_size=4))
    assert "global batch 48 = micro-batch 4 x 12 accumulated x 1 process | " in capsys.readouterr().out


def test_shards_are_found_in_the_working_folder(folder, capsys, monkeypatch):
    name = f"hdf5_lower_case_1_seq_len_{LENGTH}_max_pred_{PREDICTIONS}_masked_lm_prob_0.15_random_seed_1_dupe_factor_5"
    shards = folder / "work" / name / "wikicorpus_en"
    shards.parent.mkdir(parents=True)
    (folder / "data").rename(shards)
    monkeypatch.setenv("BERT_PREP_WORKING_DIR", str(folder / "work"))
    main(command(folder, input_dir=None, dataset="wikicorpus_en", max_steps=2, measure_peak=True))
    printed = capsys.readouterr().out
    assert "this device by itself: encoder's matmuls " in printed
    assert f"55 sequences: {shards}" in printed
    with pytest.raises(UserError, match="no shards of bookscorpus with seq_len_16_max_pred_3"):
        main(command(folder, input_dir=None, dataset="bookscorpus"))


def test_a_log_that_cannot_be_written_ends_no_run(folder, capsys):
    main([*command(folder), "--json-summary", "/dev/full"])
    assert [step for step, _ in find_checkpoints(folder / "out")] == [8]
    assert capsys.readouterr().out.count("warning: /dev/full cannot be written (No space left on device)") == 1


def test_evaluations_on_the_way_come_after_a_checkpoint_and_the_last_one_is_logged_at_its_step(folder):
    main(command(folder, eval_dir=folder / "test", num_steps_per_evaluation=3))
    assert [step for step, _ in find_checkpoints(folder / "out")] == [3, 6, 8]
    evaluated = {
        tuple(event["step"]): event["data"] for event in events(folder) if "eval_mlm_loss" in event.get("data", {})
    }
    assert [step[-1] for step in evaluated if step] == [3, 6, 8]
    assert {name: evaluated[()][name] for name in evaluated[1, 8]} == evaluated[1, 8]


def test_a_second_run_in_a_folder_is_refused_and_changes_nothing(finished, tmp_path):
    folder = copied(finished, tmp_path)
    before = contents(folder)
    with locked(folder / "out" / ".lock"):
        with pytest.raises(UserError) as refused:
            main(command(folder, max_steps=12, resume_from_checkpoint=True))
        main(command(folder, max_steps=12, resume_from_checkpoint=True, check_only=True))
        assert contents(folder) == before
    (sentence,) = refused.value.sentences
    assert f"{folder / 'out'} is in use by " in sentence
    assert f"process {os.getpid()} on" in sentence
    assert sentence.endswith("another --output_dir (--init_checkpoint takes weights from anywhere).")
    main(command(folder, max_steps=12, resume_from_checkpoint=True))
    assert len(losses(folder / "out")) == 12


def test_a_number_of_layers_replaces_the_configurations(tmp_path):
    folder = make_inputs(tmp_path)
    main(command(folder, output_dir=tmp_path / "one", num_hidden_layers=1, max_steps=1))
    saved = torch.load(find_checkpoints(tmp_path / "one")[-1][1], weights_only=False)
    assert saved["configuration"]["model"]["num_hidden_layers"] == 1
    layers = {name.split(".")[3] for name in saved["model"] if name.startswith("bert.encoder.layer.")}
    assert layers == {"0"}
