"""The flags of run_squad.py beside those of every task, and what can be wrong with their values alone."""

import functools
from collections.abc import Iterator

from common.errors import Problem
from data.loading.synthetic import synthetic_problem
from tasks.fine_tuning import FineTuningFlags, source_problems
from training.config.flags import flag
from training.config.settings import Settings, flags

DESCRIPTION = """\
Fine-tune BERT on SQuAD v1.1 or v2.0, answer its questions, and score the answers, in any combination.

  python3 run_squad.py --do_train --do_predict --do_eval --init_checkpoint bert-large-uncased/ \\
      --train_file train-v1.1.json --predict_file dev-v1.1.json --output_dir results/squad
  python3 run_squad.py --do_predict --do_eval --resume_from_checkpoint \\
      --predict_file dev-v1.1.json --vocab_file vocab.txt --output_dir results/squad
  python3 run_squad.py --question "Who wrote it?" --context "It was written by Ada." \\
      --init_checkpoint results/squad/ckpt_5530.pt --vocab_file vocab.txt --output_dir results/squad

scripts/run_squad.sh runs all of it with the published recipe."""

_window = functools.partial(flag, title="windows over long contexts")
_prediction = functools.partial(flag, title="prediction")


@flags
class SquadFlags(FineTuningFlags):
    """What to do, on which data, with which model."""

    do_train: bool = flag(False, "fine-tune on --train_file, or on --synthetic windows")
    do_predict: bool = flag(False, "answer the questions of --predict_file")
    do_eval: bool = flag(False, "score the answers; they are predicted first")
    train_file: str | None = flag(None, "SQuAD .json file to train on")
    predict_file: str | None = flag(None, "SQuAD .json file whose questions are answered")
    version_2_with_negative: bool = flag(False, "SQuAD v2.0: some questions have no answer in their context")
    skip_bad_answers: bool = flag(
        False, "leave out questions whose answer is not where the file says; without it they are an error"
    )
    eval_script: str | None = flag(None, "also run this official script on the answers", metavar="FILE")
    question: str | None = flag(None, "answer this question about --context, and print the answers", metavar="TEXT")
    context: str | None = flag(None, "the text to look for the answer in, or @FILE to read it", metavar="TEXT")

    max_seq_length: int = _window(384, "tokens of question and context together", positive=True)
    doc_stride: int = _window(128, "tokens from one window to the next", positive=True)
    max_query_length: int = _window(64, "tokens of a question; longer ones are cut", positive=True)
    cache_dir: str | None = _window(
        None, "folder of the tokenized windows, which later runs read (default: OUTPUT_DIR/cache)"
    )
    skip_cache: bool = _window(False, "neither read nor write tokenized windows")
    n_processes: int | None = _window(None, "that tokenize (default: all usable cores)", positive=True)

    predict_batch_size: int = _prediction(32, "windows that a GPU takes at once", positive=True)
    n_best_size: int = _prediction(20, "answers written per question", positive=True)
    max_answer_length: int = _prediction(30, "tokens of an answer", positive=True)
    null_score_diff_threshold: float = _prediction(
        0.0, "v2.0: no answer is given where its score is above the best answer's by more than this"
    )
    verbose_logging: bool = _prediction(False, "say for each question how its answer came about")

    @property
    def predicts(self) -> bool:
        """Whether questions of a file are answered; --do_eval needs answers too."""
        return self.do_predict or self.do_eval


def value_problems(settings: Settings) -> Iterator[Problem]:
    """What is wrong with the flags themselves, before any file is looked at."""
    flags, synthetic = settings.task, settings.measurement.synthetic
    does_file, asks = flags.do_train or flags.predicts, flags.question is not None
    if asks != (flags.context is not None):
        yield Problem("--question and --context belong together", "give both")
    if asks and does_file:
        yield Problem("--question answers one question and does nothing else", "leave the --do_... flags out")
    if not (asks or does_file):
        yield Problem("there is nothing to do", "give --do_train, --do_predict, --do_eval, or --question and --context")
    if synthetic is not None:
        if flags.train_file is not None:
            yield Problem("--synthetic makes its own windows, and --train_file names others", "give one")
        if flags.predicts:
            yield Problem("--synthetic measures the speed of training", "leave --do_predict and --do_eval out")
        if problem := synthetic_problem(synthetic, flags.max_seq_length):
            yield problem
    elif flags.do_train and flags.train_file is None:
        yield Problem("--do_train needs --train_file, a SQuAD .json file.")
    if flags.predicts and flags.predict_file is None:
        yield Problem("--do_predict and --do_eval need --predict_file, a SQuAD .json file.")
    if flags.eval_script and not flags.do_eval:
        yield Problem("--eval_script scores answers", "add --do_eval")
    if flags.eval_script and flags.skip_bad_answers:
        yield Problem("--eval_script scores all questions of a file", "repair it instead of giving --skip_bad_answers")
    yield from source_problems(settings)
    if not flags.max_query_length + 4 <= flags.max_seq_length:
        yield Problem(
            f"--max_query_length {flags.max_query_length} leaves no room for a context in --max_seq_length "
            f"{flags.max_seq_length}",
            "take a shorter question or a longer sequence",
        )
