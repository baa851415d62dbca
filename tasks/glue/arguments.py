"""The flags of run_glue.py beside those of every task, and what can be wrong with their values alone."""

import functools
from collections.abc import Iterator

from common.errors import Problem
from data.loading.synthetic import SHORTEST, synthetic_problem
from tasks.fine_tuning import FineTuningFlags, source_problems
from tasks.glue.benchmarks import BENCHMARKS
from training.config.flags import flag
from training.config.settings import Settings, flags

DESCRIPTION = """\
Fine-tune BERT on a task of GLUE, score it, and predict what GLUE's server scores, in any combination.

  python3 run_glue.py --task_name mrpc --data_dir data/download/glue/MRPC --do_train --do_eval \\
      --init_checkpoint bert-large-uncased --output_dir results/glue/mrpc
  python3 run_glue.py --task_name mrpc --data_dir data/download/glue/MRPC --do_predict --resume_from_checkpoint \\
      --init_checkpoint bert-large-uncased --output_dir results/glue/mrpc

scripts/run_glue.sh runs several tasks with several seeds."""

_sequence = functools.partial(flag, title="sequences")


@flags
class GlueFlags(FineTuningFlags):
    """What to do, on which data, with which model."""

    do_train: bool = flag(False, "fine-tune on the task's train.tsv, or on --synthetic sequences")
    do_eval: bool = flag(False, "score the task's dev.tsv; of mnli both, matched and mismatched")
    do_predict: bool = flag(False, "predict the task's test.tsv, in the format of GLUE's submissions")
    task_name: str | None = flag(
        None,
        f"one of {', '.join(BENCHMARKS)}",
        choices=BENCHMARKS,
        type=str.lower,
        metavar="NAME",
    )
    data_dir: str | None = flag(None, "folder of the task's files, or the one that holds GLUE's folders")

    max_seq_length: int = _sequence(128, "tokens of one or both texts together; longer ones are cut", positive=True)
    eval_batch_size: int = _sequence(32, "sequences that a GPU scores at once", positive=True)


def value_problems(settings: Settings) -> Iterator[Problem]:
    """What is wrong with the flags themselves, before any file is looked at."""
    flags, synthetic = settings.task, settings.measurement.synthetic
    uses_files = flags.do_eval or flags.do_predict or (flags.do_train and synthetic is None)
    if flags.task_name is None:
        yield Problem("--task_name is missing", f"give one of {', '.join(BENCHMARKS)}")
    if not (flags.do_train or flags.do_eval or flags.do_predict):
        yield Problem("there is nothing to do", "give --do_train, --do_eval or --do_predict")
    if flags.task_name == "ax" and (flags.do_train or flags.do_eval):
        yield Problem(
            "--task_name ax has nothing to train or score on",
            "train mnli, and give --do_predict with that run's --output_dir and --resume_from_checkpoint",
        )
    if uses_files and flags.data_dir is None:
        yield Problem("--data_dir is missing", "give the folder of the task's files")
    if synthetic is not None:
        if flags.do_eval or flags.do_predict:
            yield Problem("--synthetic measures the speed of training", "leave --do_eval and --do_predict out")
        if flags.data_dir is not None:
            yield Problem("--synthetic makes its own sequences, and --data_dir names others", "give one")
        if problem := synthetic_problem(synthetic, flags.max_seq_length):
            yield problem
    yield from source_problems(settings)
    if flags.max_seq_length < SHORTEST:
        yield Problem(f"--max_seq_length {flags.max_seq_length} is too short for two texts", f"give {SHORTEST} or more")
