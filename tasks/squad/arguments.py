"""The command line of run_squad.py: its flags, and what can be wrong with their values alone."""

import argparse
from collections.abc import Iterator

import torch

from models.config import BERT_CONFIGS
from training.config.argument_checks import not_positive, shared_value_problems
from training.config.arguments import (
    HelpFormatter,
    add_checkpoint_arguments,
    add_distribution_arguments,
    add_length_arguments,
    add_measurement_arguments,
    add_optimization_arguments,
    add_output_arguments,
    add_runtime_arguments,
)

DESCRIPTION = """\
Fine-tune BERT on SQuAD v1.1 or v2.0, answer its questions, and score the answers, in any combination.

  python3 run_squad.py --do_train --do_predict --do_eval --init_checkpoint bert-large-uncased/ \\
      --train_file train-v1.1.json --predict_file dev-v1.1.json --output_dir results/squad
  python3 run_squad.py --do_predict --do_eval --resume_from_checkpoint \\
      --predict_file dev-v1.1.json --vocab_file vocab.txt --output_dir results/squad
  python3 run_squad.py --question "Who wrote it?" --context "It was written by Ada." \\
      --init_checkpoint results/squad/ckpt_5530.pt --vocab_file vocab.txt --output_dir results/squad

scripts/run_squad.sh runs all of it with the published recipe."""

POSITIVE = (
    "doc_stride",
    "max_query_length",
    "predict_batch_size",
    "n_best_size",
    "max_answer_length",
    "n_processes",
)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line, as its user gave it."""
    parser = argparse.ArgumentParser(description=DESCRIPTION, formatter_class=HelpFormatter)
    _add_task_arguments(parser.add_argument_group("what to do, and on which data"))
    _add_model_arguments(parser.add_argument_group("model and vocabulary"))
    _add_window_arguments(parser.add_argument_group("windows over long contexts"))
    _add_prediction_arguments(parser.add_argument_group("prediction"))
    add_length_arguments(parser, num_train_epochs=2.0)
    add_optimization_arguments(parser, learning_rate=3e-5, warmup_proportion=0.1, optimizer="adamw", schedule="linear")
    add_runtime_arguments(parser)
    add_distribution_arguments(parser)
    add_output_arguments(parser)
    add_checkpoint_arguments(parser)
    add_measurement_arguments(parser)
    # Fine-tuning has one phase; what finds and numbers checkpoints knows of two.
    parser.set_defaults(phase2=False, resume_phase2=False, phase1_end_step=0, num_steps_per_checkpoint=1000)
    return parser.parse_args(arguments)


def _add_task_arguments(group) -> None:
    group.add_argument("--do_train", action="store_true", help="fine-tune on --train_file, or on --synthetic windows")
    group.add_argument("--do_predict", action="store_true", help="answer the questions of --predict_file")
    group.add_argument("--do_eval", action="store_true", help="score the answers; they are predicted first")
    group.add_argument("--train_file", default=None, help="SQuAD .json file to train on")
    group.add_argument("--predict_file", default=None, help="SQuAD .json file whose questions are answered")
    group.add_argument(
        "--version_2_with_negative",
        action="store_true",
        help="SQuAD v2.0: some questions have no answer in their context",
    )
    group.add_argument(
        "--skip_bad_answers",
        action="store_true",
        help="leave out questions whose answer is not where the file says; without it they are an error",
    )
    group.add_argument("--eval_script", default=None, help="also run this official script on the answers")
    group.add_argument("--question", default=None, help="answer this question about --context, and print the answers")
    group.add_argument("--context", default=None, help="the text to look for the answer in, or @FILE to read it")


def _add_model_arguments(group) -> None:
    group.add_argument(
        "--bert_model",
        choices=BERT_CONFIGS,
        default=None,
        help="a shipped configuration (default: that of --init_checkpoint, else bert-large-uncased)",
    )
    group.add_argument("--config_file", default=None, help="a bert_config.json, instead of --bert_model")
    group.add_argument("--vocab_file", default=None, help="vocab.txt (default: the one beside --init_checkpoint)")
    group.add_argument(
        "--do_lower_case",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="whether the vocabulary is uncased (default: what --init_checkpoint or the vocabulary itself says)",
    )


def _add_window_arguments(group) -> None:
    group.add_argument("--max_seq_length", type=int, default=384, help="tokens of question and context together")
    group.add_argument("--doc_stride", type=int, default=128, help="tokens from one window to the next")
    group.add_argument("--max_query_length", type=int, default=64, help="tokens of a question; longer ones are cut")
    group.add_argument(
        "--cache_dir",
        default=None,
        help="folder of the tokenized windows, which later runs read (default: OUTPUT_DIR/cache)",
    )
    group.add_argument("--skip_cache", action="store_true", help="neither read nor write tokenized windows")
    group.add_argument("--n_processes", type=int, default=None, help="that tokenize (default: all usable cores)")


def _add_prediction_arguments(group) -> None:
    group.add_argument("--predict_batch_size", type=int, default=32, help="windows that a GPU takes at once")
    group.add_argument("--n_best_size", type=int, default=20, help="answers written per question")
    group.add_argument("--max_answer_length", type=int, default=30, help="tokens of an answer")
    group.add_argument(
        "--null_score_diff_threshold",
        type=float,
        default=0.0,
        help="v2.0: no answer is given where its score is above the best answer's by more than this",
    )
    group.add_argument("--verbose_logging", action="store_true", help="say for each question how its answer came about")


def value_problems(args: argparse.Namespace, device: torch.device) -> Iterator[str]:
    """What is wrong with the flags themselves, before any file is looked at."""
    yield from not_positive(args, POSITIVE)
    yield from shared_value_problems(args, device)
    yield from _task_problems(args)
    if not (args.do_train or args.resume_from_checkpoint or args.init_checkpoint):
        yield (
            "there are no weights to answer with; add --resume_from_checkpoint for those in --output_dir, or "
            "--init_checkpoint."
        )
    if args.init_checkpoint is None and args.vocab_file is None and args.synthetic is None:
        yield "there is no vocabulary; give --vocab_file, or an --init_checkpoint with one beside it."
    if not args.max_query_length + 4 <= args.max_seq_length:
        yield (
            f"--max_query_length {args.max_query_length} leaves no room for a context in --max_seq_length "
            f"{args.max_seq_length}; take a shorter question or a longer sequence."
        )


def _task_problems(args: argparse.Namespace) -> Iterator[str]:
    if (args.question is None) != (args.context is None):
        yield "--question and --context belong together; give both."
    if args.question is not None and (args.do_train or args.do_predict or args.do_eval):
        yield "--question answers one question and does nothing else; leave --do_train, --do_predict and --do_eval out."
    if not (args.do_train or args.do_predict or args.do_eval or args.question is not None):
        yield "there is nothing to do: give --do_train, --do_predict, --do_eval, or a --question and its --context."
    if args.synthetic is not None:
        if args.train_file is not None:
            yield f"--synthetic makes its own windows, and --train_file {args.train_file} names others; give one."
        if args.do_predict or args.do_eval:
            yield "--synthetic measures the speed of training; leave --do_predict and --do_eval out."
    elif args.do_train and args.train_file is None:
        yield "--do_train needs --train_file, a SQuAD .json file."
    if (args.do_predict or args.do_eval) and args.predict_file is None:
        yield "--do_predict and --do_eval need --predict_file, a SQuAD .json file."
    if args.eval_script and not args.do_eval:
        yield "--eval_script scores answers; add --do_eval."
    if args.eval_script and args.skip_bad_answers:
        yield "--eval_script scores all questions of a file; repair it instead of giving --skip_bad_answers."
