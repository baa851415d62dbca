"""The command line of pre-training: what is wrong with its values is said flag by flag, and all of it."""

import dataclasses
import os

import pytest
import torch

from common.command_line import DefaultsFormatter
from models.config import BERT_CONFIGS
from tasks.pretraining.arguments import PretrainingFlags
from tasks.pretraining.task import PretrainingTask
from tasks.setup import parse_arguments
from training.config.problems import shared_problems
from training.config.settings import SHARED

CPU = torch.device("cpu")
MLPERF = ("--schedule", "mlperf")
HELD_OUT = ("--eval_dir", "test")
POSITIVE = [
    field.name
    for kind in (*SHARED, PretrainingFlags)
    for field in dataclasses.fields(kind)
    if field.metadata["positive"]
]


def parsed(*arguments):
    return parse_arguments(PretrainingTask, ["--input_dir", "data", "--output_dir", "out", *arguments])


def value_problems(settings, device=CPU):
    settings = dataclasses.replace(settings, device=device)
    return [str(problem) for problem in (*shared_problems(settings), *PretrainingTask(settings).problems())]


def problems_of(*arguments, device=CPU):
    return value_problems(parsed("--do_train", "--max_steps", "10", *arguments), device)


def test_defaults_have_no_problem():
    assert problems_of() == []


@pytest.mark.parametrize("value", ["0", "-3"])
@pytest.mark.parametrize("flag", [name for name in POSITIVE if name not in ("max_steps", "num_train_epochs")])
def test_what_must_be_positive(flag, value):
    found = problems_of(f"--{flag}", value)
    assert any(sentence.startswith(f"--{flag} is {value}") and "greater than zero" in sentence for sentence in found)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--max_steps", "0"], "--max_steps is 0"),
        (["--learning_rate", "nan"], "--learning_rate is nan"),
        (["--learning_rate", "inf", "--max_grad_norm", "inf"], "--learning_rate is infinite"),
        (["--weight_decay", "-0.1"], "--weight_decay is -0.1; it must not be negative"),
        (["--weight_decay", "nan"], "--weight_decay is nan"),
        (["--warmup_proportion", "1"], "--warmup_proportion is 1.0; it must lie in [0, 1)"),
        (["--warmup_proportion", "-0.1"], "--warmup_proportion is -0.1"),
        (["--beta1", "1"], "--beta1 is 1.0; it must lie in [0, 1)"),
        (["--opt_lamb_beta_2", "-0.1"], "--beta2 is -0.1; it must lie in [0, 1)"),
        (["--beta2", "nan"], "--beta2 is nan; it must lie in [0, 1)"),
        (["--warmup_steps", "5"], "--warmup_steps 5 is of --schedule mlperf alone; give --warmup_proportion instead"),
        (["--start_warmup_step", "-5"], "--start_warmup_step -5 is of --schedule mlperf alone"),
        ([*MLPERF, "--warmup_proportion", "0.1"], "counts its warm-up in steps, and --warmup_proportion is 0.1; give"),
        ([*MLPERF, "--warmup_steps", "-1"], "--warmup_steps is -1; it must not be negative"),
        ([*MLPERF, "--start_warmup_step", "1"], "--start_warmup_step is 1; it must not be above 0"),
        (["--num_train_epochs", "2"], "give either --max_steps or --num_train_epochs"),
        (["--resume_phase2"], "--resume_phase2 belongs to phase 2; add --phase2"),
        (["--resume_step", "5"], "--resume_step 5 does nothing alone; add --resume_from_checkpoint"),
        (["--fp16", "--precision", "bf16"], "--fp16 (or --amp) and --precision bf16 contradict"),
        (["--amp", "--precision", "fp32"], "contradict"),
        (["--loss_scale", "128"], "--loss_scale 128 is for fp16 alone"),
        (["--loss_scale", "-1", "--fp16"], "--loss_scale is -1.0; give 0"),
        (["--min_loss_scale", "2097152"], "--min_loss_scale 2.09715e+06 is above --init_loss_scale 1.04858e+06"),
        (["--allreduce_post_accumulation_fp16", "--reduce_dtype", "bf16"], "--reduce_dtype bf16 contradict"),
        (["--masking_rule", "tokens"], "--masking_rule tokens is for rows that are masked as they are read"),
        (["--masked_lm_prob", "0.2"], "--masked_lm_prob 0.2 is for rows that are masked as they are read"),
        (["--masking", "dynamic", "--masked_lm_prob", "1"], "--masked_lm_prob is 1.0; it must lie between 0 and 1"),
        (["--masking", "dynamic", "--masked_lm_prob", "nan"], "--masked_lm_prob is nan; it must lie between 0 and 1"),
        (["--num_steps_per_evaluation", "5"], "nothing to evaluate on; add --eval_dir"),
        (["--num_samples_per_evaluation", "5"], "--num_samples_per_evaluation has nothing to evaluate on"),
        (["--evaluate_first"], "--evaluate_first has nothing to evaluate on; add --eval_dir"),
        (["--target_mlm_accuracy", "0.7"], "--target_mlm_accuracy has nothing to evaluate on; add --eval_dir"),
        ([*HELD_OUT, "--target_mlm_accuracy", "72"], "--target_mlm_accuracy is 72.0; give a share between 0 and 1"),
        ([*HELD_OUT, "--target_mlm_accuracy", "0"], "--target_mlm_accuracy is 0.0; give a share between 0 and 1"),
        ([*HELD_OUT, "--target_mlm_accuracy", "nan"], "--target_mlm_accuracy is nan; give a share between 0 and 1"),
        ([*HELD_OUT, "--expected_mlm_accuracy", "0.3"], "compared before the first step; add --evaluate_first"),
        (
            [*HELD_OUT, "--num_samples_per_evaluation", "5", "--num_steps_per_evaluation", "5"],
            "--num_steps_per_evaluation and --num_samples_per_evaluation contradict; give one of them",
        ),
        (["--precision", "tf32"], "--precision tf32 exists on NVIDIA GPUs only"),
        (["--optimizer", "apex_fused_lamb"], "use lamb or adamw"),
        (["--profile", "cuda"], "Nsight, which needs a GPU; give --profile torch"),
    ],
)
def test_each_problem_is_one_sentence(arguments, sentence):
    (found,) = problems_of(*arguments)
    assert sentence in found
    assert found.endswith(".")


def test_all_problems_are_found_at_once():
    found = "\n".join(
        problems_of("--train_batch_size", "-1", "--log_freq", "0", "--resume_phase2", "--precision", "tf32")
    )
    for name in ("--train_batch_size", "--log_freq", "--resume_phase2", "--precision"):
        assert name in found


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "there is nothing to do"),
        (["--do_train"], "give either --max_steps or --num_train_epochs"),
        (["--do_train", "--num_train_epochs", "inf"], "--num_train_epochs is infinite"),
        (["--eval_dir", "held_out"], "there are no weights to evaluate"),
        (
            [*HELD_OUT, "--init_checkpoint", "weights.pt", "--target_mlm_accuracy", "0.5"],
            "--target_mlm_accuracy is for training, and there is no --do_train; leave it out",
        ),
        (
            ["--eval_dir", "held_out", "--init_checkpoint", "weights.pt", "--masking", "dynamic"],
            "--masking dynamic is for training, and held-out shards keep their masks; leave it out",
        ),
    ],
)
def test_what_a_run_needs(arguments, sentence):
    (found,) = value_problems(parsed(*arguments))
    assert sentence in found


@pytest.mark.parametrize("flags", [["--fp16"], ["--amp"], ["--fp16", "--amp"], ["--amp", "--precision", "fp16"]])
def test_nvidias_names_for_mixed_precision_mean_fp16(flags):
    assert parsed(*flags).precision_name == "fp16"
    assert problems_of(*flags) == []


@pytest.mark.parametrize(
    ("flags", "expected"),
    [([], "fp32"), (["--allreduce_post_accumulation_fp16"], "fp16"), (["--reduce_dtype", "bf16"], "bf16")],
)
def test_what_gradients_are_reduced_in(flags, expected):
    assert parsed(*flags).distribution.reduced_in == expected


@pytest.mark.parametrize(
    ("flag", "package"),
    [("--tensorboard_dir", "tensorboard"), ("--wandb_project", "wandb"), ("--mlflow_experiment", "mlflow-skinny")],
)
def test_a_board_that_is_not_installed(monkeypatch, flag, package):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://somewhere:5000")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (found,) = problems_of(flag, "board")
    assert found.startswith(f"{flag} needs ")
    assert f"(pip install {package})" in found


def test_mlflow_must_know_where_its_server_is(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (found,) = problems_of("--mlflow_experiment", "bert")
    assert "export MLFLOW_TRACKING_URI=http://HOST:5000" in found


def test_an_output_folder_that_cannot_be_one(tmp_path):
    (tmp_path / "file").touch()
    (found,) = problems_of("--output_dir", str(tmp_path / "file" / "below"))
    assert f"{tmp_path / 'file'} is a file" in found
    assert problems_of("--output_dir", str(tmp_path / "new" / "folders")) == []


def test_an_output_folder_that_is_read_only(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root, as tests often are, may write anywhere
    (found,) = problems_of("--output_dir", str(tmp_path / "new"))
    assert f"{tmp_path} is read-only" in found


def test_compiling_on_a_cpu_needs_a_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    (found,) = problems_of("--compile")
    assert "C++ compiler" in found
    assert problems_of("--compile", device=torch.device("cuda")) == []


def test_shipped_configurations_are_where_the_flag_looks():
    assert all(path.is_file() for path in BERT_CONFIGS.values())


def test_help_explains_every_flag_and_shows_defaults_where_there_are_any(capsys):
    with pytest.raises(SystemExit) as stopped:
        parsed("--help", "all")
    assert stopped.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "tokens per sequence in the shards (default: 512)" in text
    assert "(default: None)" not in text
    assert "(default: False)" not in text


def test_every_flag_has_help(monkeypatch):
    actions = []
    add_argument = DefaultsFormatter.add_argument
    monkeypatch.setattr(DefaultsFormatter, "add_argument", lambda self, a: (actions.append(a), add_argument(self, a)))
    with pytest.raises(SystemExit):
        parsed("--help", "all")
    assert len(POSITIVE) > 15
    assert len(actions) > 40
    assert [action.option_strings for action in actions if not action.help] == []
