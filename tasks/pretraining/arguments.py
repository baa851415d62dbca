"""The flags of run_pretraining.py beside those of every task, and what can be wrong with their values alone."""

from collections.abc import Iterator

from common.errors import Problem
from data.loading.synthetic import synthetic_problem
from data.masked_lm.masking import MASKING_RULES
from models.config import BERT_CONFIGS
from training.config.flags import flag
from training.config.settings import Settings, flags

DESCRIPTION = """\
Pre-train BERT on HDF5 shards, or LDDL's in Parquet: phase 1 at sequence length 128, phase 2 at 512.

  python3 run_pretraining.py --do_train --input_dir DIR --output_dir DIR --bert_model large \\
      --max_seq_length 128 --max_predictions_per_seq 20 --train_batch_size 65536 \\
      --gradient_accumulation_steps 256 --learning_rate 6e-3 --warmup_proportion 0.2843 --max_steps 7038

scripts/run_pretraining.sh runs both phases with the published recipe."""


@flags
class PretrainingFlags:
    """Data, model and phases."""

    do_train: bool = flag(False, "train; without it, only --eval_dir is looked at")
    input_dir: str | None = flag(
        None,
        "shards, or the data preparation's folder (default: $BERT_PREP_WORKING_DIR or data/)",
    )
    dataset: str | None = flag(None, "which corpus to take from a working folder with several")
    eval_dir: str | None = flag(None, "folder of held-out shards to evaluate on, found likewise")
    bert_model: str = flag(
        "bert-large-uncased", "a shipped configuration: tiny, base or large", choices=BERT_CONFIGS, metavar="NAME"
    )
    config_file: str | None = flag(None, "a bert_config.json, instead of --bert_model")
    num_hidden_layers: int | None = flag(
        None, "encoder layers, in place of the configuration's: two are enough to measure a layer", positive=True
    )
    vocab_file: str | None = flag(
        None,
        "checked against the configuration's vocab_size; says what --masking dynamic must know of the tokens, and the "
        "ids of those in LDDL's shards",
    )
    max_seq_length: int = flag(512, "tokens per sequence in the shards", positive=True)
    max_predictions_per_seq: int = flag(80, "masked positions per sequence in the shards", positive=True)
    masking: str = flag(
        "static",
        "static: the masks that the shards have; dynamic: each row of the training shards is masked anew whenever it "
        "is read",
        choices=("static", "dynamic"),
    )
    masking_rule: str | None = flag(
        None, "what --masking dynamic masks (default: as the shards' manifest says, else tokens)", choices=MASKING_RULES
    )
    masked_lm_prob: float | None = flag(
        None, "share of a row's tokens that --masking dynamic masks (default: as the shards say, else 0.15)"
    )
    num_steps_per_evaluation: int | None = flag(
        None, "optimizer steps between evaluations (default: only after the last step)", positive=True
    )
    num_samples_per_evaluation: int | None = flag(
        None,
        "instead of it, sequences between evaluations; one follows the first step that reaches a multiple",
        positive=True,
    )
    evaluate_first: bool = flag(False, "also evaluate before the first step")
    expected_mlm_accuracy: float | None = flag(
        None, "masked-LM accuracy known of the initial weights: --evaluate_first warns where it finds another"
    )
    target_mlm_accuracy: float | None = flag(
        None,
        "stop after the evaluation with this masked-LM accuracy (0 to 1); a run that ends below has exit status 3",
    )
    mllog: str | None = flag(
        None,
        "also write the run to this file as a log of MLPerf Training (:::MLLOG lines); see docs/mlperf.md",
        metavar="FILE",
    )
    mllog_division: str | None = flag(
        None, "what it says of the rules: closed, which is checked, or open (default)", choices=("closed", "open")
    )
    mllog_caches_cleared: bool = flag(False, "it says that the system's caches were cleared before")
    num_workers: int = flag(1, "0 reads the shards in the training thread; more, in a thread beside it")
    no_dense_sequence_output: bool = flag(
        False,
        "multiply the vocabulary out at every token and not at the masked ones alone: the same losses, slower, "
        "for comparison; what it costs is not counted as work",
    )
    phase2: bool = flag(
        False,
        "with --resume_from_checkpoint: start from phase 1's ckpt_PHASE1_END_STEP.pt, its weights and optimizer "
        "moments, with a new schedule; or resume phase 2 where it has checkpoints",
    )
    resume_phase2: bool = flag(False, "insist that phase 2 has a checkpoint to resume from")
    phase1_end_step: int = flag(7038, "last step of phase 1; phase 2 counts on from it", positive=True)


def value_problems(settings: Settings) -> Iterator[Problem]:
    """What is wrong with the flags themselves, before any file is looked at."""
    flags = settings.task
    has_weights = settings.checkpoints.resume_from_checkpoint or settings.checkpoints.init_checkpoint
    if not (flags.do_train or flags.eval_dir):
        yield Problem("there is nothing to do: give --do_train to train, --eval_dir to evaluate, or both.")
    if flags.do_train and (settings.length.max_steps is None) == (settings.length.num_train_epochs is None):
        yield Problem("give either --max_steps or --num_train_epochs, so that the schedule knows where it ends.")
    if flags.eval_dir and not flags.do_train and not has_weights:
        yield Problem("there are no weights to evaluate", "add --resume_from_checkpoint or --init_checkpoint")
    if flags.resume_phase2 and not flags.phase2:
        yield Problem("--resume_phase2 belongs to phase 2", "add --phase2")
    yield from _evaluation_problems(settings)
    yield from _masking_problems(settings)
    if settings.measurement.synthetic is None:
        return
    if problem := synthetic_problem(settings.measurement.synthetic, flags.max_seq_length):
        yield problem
    if flags.max_predictions_per_seq > flags.max_seq_length:
        yield Problem(
            f"--max_predictions_per_seq {flags.max_predictions_per_seq} is more than --max_seq_length "
            f"{flags.max_seq_length} has tokens",
            "give fewer",
        )
    if flags.input_dir is not None:
        yield Problem("--synthetic makes its own sequences, and --input_dir names others", "give one")
    if flags.eval_dir is not None:
        yield Problem("--synthetic measures speed, and random tokens teach nothing", "leave --eval_dir out")
    if settings.length.num_train_epochs is not None:
        yield Problem("--synthetic has no end that --num_train_epochs could count", "give --max_steps")


def _evaluation_problems(settings: Settings) -> Iterator[Problem]:
    flags = settings.task
    for name in ("num_steps_per_evaluation", "num_samples_per_evaluation", "evaluate_first", "target_mlm_accuracy"):
        if getattr(flags, name) and not flags.eval_dir:
            yield Problem(f"--{name} has nothing to evaluate on", "add --eval_dir")
    for name in ("evaluate_first", "target_mlm_accuracy"):
        if getattr(flags, name) and not flags.do_train:
            yield Problem(f"--{name} is for training, and there is no --do_train", "leave it out")
    for name in ("target_mlm_accuracy", "expected_mlm_accuracy"):
        if (value := getattr(flags, name)) is not None and not 0 < value < 1:
            yield Problem(f"--{name} is {value}", "give a share between 0 and 1, such as 0.72 for 72 %")
    if flags.num_steps_per_evaluation and flags.num_samples_per_evaluation:
        yield Problem("--num_steps_per_evaluation and --num_samples_per_evaluation contradict", "give one of them")
    if flags.mllog is not None and flags.target_mlm_accuracy is None:
        yield Problem("--mllog is the log of a training to an accuracy", "add --target_mlm_accuracy 0.72")
    for name in ("mllog_division", "mllog_caches_cleared"):
        if getattr(flags, name) and flags.mllog is None:
            yield Problem(f"--{name} says something in MLPerf's log, and there is none", "add --mllog result_0.txt")
    if flags.expected_mlm_accuracy is not None and not flags.evaluate_first:
        yield Problem("--expected_mlm_accuracy is compared before the first step", "add --evaluate_first")


def _masking_problems(settings: Settings) -> Iterator[Problem]:
    flags = settings.task
    if flags.masking == "static":
        for name in ("masking_rule", "masked_lm_prob"):
            if (value := getattr(flags, name)) is not None:
                what = f"--{name} {value} is for rows that are masked as they are read, and the shards' masks are kept"
                yield Problem(what, "add --masking dynamic, or leave it out")
        return
    if flags.masked_lm_prob is not None and not 0 < flags.masked_lm_prob < 1:
        yield Problem(f"--masked_lm_prob is {flags.masked_lm_prob}; it must lie between 0 and 1.")
    if not flags.do_train:
        yield Problem("--masking dynamic is for training, and held-out shards keep their masks", "leave it out")
    if settings.measurement.synthetic is not None:
        yield Problem("--masking dynamic masks the rows of shards, and --synthetic makes its own", "leave one out")
