"""From the command line of fine-tuning to everything a run is built of, or to one list of all that is wrong with it.

Nothing is written here but the cache of tokenized windows, and no training begins before all of it holds, on all ranks.
"""

import argparse
import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from common.errors import Problems, UserError
from common.workers import usable_cores
from data.loading.synthetic import N_BATCHES, mean_length, synthetic_problem
from modeling import BertForQuestionAnswering
from models.config import BERT_CONFIGS, BertConfig
from pretrained.hugging_face import read_config
from pretrained.load import Pretrained, read_pretrained
from tasks.setup import (
    check_all_see_the_same,
    check_config,
    check_graphs,
    check_kernels,
    choose_graphs,
    count_parameters,
    count_steps,
    divide_batch,
    find_resumed,
    position_problem,
    resolve_setup,
)
from tasks.squad.arguments import value_problems
from tasks.squad.dataset import SquadDataset
from tasks.squad.examples import SquadExample, read_squad
from tasks.squad.features import SquadFeatures, cached_squad_features, squad_features
from tasks.squad.synthetic import N_WINDOWS, synthetic_features
from tokenization import BertTokenizer, is_cased, load_vocab
from training.config.batch_sizes import BatchSizes
from training.distributed.world import World
from training.run import TrainingSetup


@dataclasses.dataclass
class SquadSetup(TrainingSetup):
    """What a checked command line comes to."""

    tokenizer: BertTokenizer
    predict_examples: Sequence[SquadExample]
    predict_dataset: SquadDataset | None
    """Their windows; None where nothing is predicted."""


def check(args: argparse.Namespace, world: World, device: torch.device) -> SquadSetup:
    """Resolve the command line. All ranks call it.

    Raises:
        UserError: all that is wrong, a sentence each; on rank 0 what any rank found, on the others without sentences.
    """
    problems = Problems()
    for sentence in value_problems(args, device):
        problems.add(sentence)
    pretrained = None
    if args.init_checkpoint:
        with problems.collect():
            pretrained = read_pretrained(args.init_checkpoint)
    config = _read_config(args, pretrained, problems)
    check_kernels(args, config, device, problems)
    check_graphs(args, world, device, problems)
    tokenizer = _open_tokenizer(args, config, pretrained, problems)
    n_parameters = count_parameters(BertForQuestionAnswering, config) if config else None
    batches = divide_batch(args, config, n_parameters, world, device, problems)
    choose_graphs(args, config, n_parameters, batches, world, device)
    if args.eval_script and not Path(args.eval_script).is_file():
        problems.add(
            f"there is no script {args.eval_script}", "give --eval_script evaluate-v1.1.py or evaluate-v2.0.py"
        )
    examples = _read_examples(args, world, problems)
    check_all_see_the_same("model", config, world, problems)
    for what, some in examples.items():
        check_all_see_the_same(f"{what} questions", [example.id for example in some], world, problems)

    datasets = {}
    # Tokenizing takes its time.
    if tokenizer is not None and not problems.found and not args.check_only:
        for what, some in examples.items():
            with problems.collect():
                features = _features(args, some, tokenizer, world)
                per_device = batches.micro if what == "training" else args.predict_batch_size
                datasets[what] = SquadDataset(
                    features, per_device, args.max_seq_length, args.seed, world.rank, world.size
                )
    if args.synthetic is not None and config is not None and batches is not None:
        with problems.collect():
            datasets["training"] = _synthetic_dataset(args, config, batches, world)
    dataset = datasets.get("training")
    if dataset is not None and dataset.n_samples < batches.micro * world.size:
        problems.add(
            f"{args.train_file} comes to {dataset.n_samples} windows, and one micro-batch on all ranks takes "
            f"{batches.micro * world.size}",
            "take a smaller --train_batch_size",
        )
    total_steps = count_steps(args, batches, dataset and dataset.n_samples)
    resumed = find_resumed(args, config, total_steps, world, problems)
    if resumed is not None and args.do_train and dataset is not None:
        flags = "--train_file, --seed and window flags"
        where = args.train_file or "--synthetic"
        if problem := position_problem(resumed["data_position"], dataset, where, flags):
            problems.add(problem)
    initial_weights = pretrained if resumed is None else None
    setup = resolve_setup(
        args, world, device, problems, batches, config, dataset, total_steps, resumed, initial_weights
    )
    predict_examples = examples.get("prediction", [])
    return SquadSetup(
        **vars(setup),
        tokenizer=tokenizer,
        predict_examples=predict_examples,
        predict_dataset=datasets.get("prediction"),
    )


def _read_config(args: argparse.Namespace, pretrained: Pretrained | None, problems: Problems) -> BertConfig | None:
    stated = args.config_file or (args.bert_model and BERT_CONFIGS[args.bert_model])
    config = None
    with problems.collect():
        if stated:
            config = read_config(Path(stated))
            if pretrained is not None:
                config = pretrained.with_config(
                    config, str(args.config_file or f"--bert_model {args.bert_model}")
                ).config
        elif pretrained is not None:
            config = pretrained.known_config()
        else:
            config = BertConfig.from_json_file(BERT_CONFIGS["large"])
        check_config(config, args, problems)
    return config


def _open_tokenizer(
    args: argparse.Namespace, config: BertConfig | None, pretrained: Pretrained | None, problems: Problems
) -> BertTokenizer | None:
    vocab_file = args.vocab_file or (pretrained and pretrained.vocab_file)
    if vocab_file is None:
        if pretrained is not None:
            problems.add(
                f"{pretrained.path} has no vocabulary beside it", "give --vocab_file the one it was trained with"
            )
        return None
    tokenizer = None
    with problems.collect():
        cased = is_cased(load_vocab(vocab_file))
        stated = args.do_lower_case if args.do_lower_case is not None else pretrained and pretrained.do_lower_case
        # Where nobody lower-cases a vocabulary without capitals it may be of a script that has none.
        if stated == cased and (cased or args.do_lower_case is False):
            what, remedy = ("a cased", "--no-do_lower_case") if cased else ("an uncased", "--do_lower_case")
            raise UserError(
                f"the vocabulary {vocab_file} is {what} one, and most words would not be found in it with "
                f"do_lower_case {stated}",
                f"give {remedy}",
            )
        tokenizer = BertTokenizer(vocab_file, do_lower_case=not cased if stated is None else stated)
        if config is not None and not args.vocab_file:
            problems.check(
                tokenizer.vocab_size == config.vocab_size,
                f"the vocabulary {vocab_file} has {tokenizer.vocab_size} entries and the model's configuration says "
                f"vocab_size {config.vocab_size}",
                "give --vocab_file the one the model was trained with",
            )
    return tokenizer


def _read_examples(args: argparse.Namespace, world: World, problems: Problems) -> dict[str, list[SquadExample]]:
    """What is to be trained on and answered, as far as it can be read."""
    examples = {}
    report = _reporter(world)
    read = functools.partial(
        read_squad,
        version_2_with_negative=args.version_2_with_negative,
        skip_bad_answers=args.skip_bad_answers,
        report=report,
    )
    if args.do_train and args.train_file:
        with problems.collect():
            examples["training"] = read(args.train_file)
    if (args.do_predict or args.do_eval) and args.predict_file:
        with problems.collect():
            examples["prediction"] = read(args.predict_file, answers_required=args.do_eval)
    if args.question is not None and args.context is not None:
        with problems.collect():
            examples["prediction"] = [SquadExample("question", args.question, _read_context(args.context), (), False)]
    return examples


def _synthetic_dataset(args: argparse.Namespace, config: BertConfig, batches: BatchSizes, world: World) -> SquadDataset:
    if problem := synthetic_problem(args.synthetic, args.max_seq_length):
        raise UserError(problem)
    n_windows = max(N_WINDOWS, N_BATCHES * batches.micro * world.size)
    lengths = mean_length(args.synthetic)
    features = synthetic_features(n_windows, args.max_seq_length, config.vocab_size, lengths, args.seed)
    return SquadDataset(features, batches.micro, args.max_seq_length, args.seed, world.rank, world.size)


def _read_context(context: str) -> str:
    if not context.startswith("@"):
        return context
    try:
        return Path(context[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--context {context} cannot be read ({error})", "give @ and a text file in UTF-8") from error


def _features(
    args: argparse.Namespace, examples: Sequence[SquadExample], tokenizer: BertTokenizer, world: World
) -> SquadFeatures:
    lengths = (args.max_seq_length, args.doc_stride, args.max_query_length)
    progress = world.is_first and not args.disable_progress_bar and len(examples) > 1
    n_processes = max(1, (args.n_processes or usable_cores()) // world.local_size)
    if args.skip_cache or len(examples) == 1:
        return squad_features(examples, tokenizer, *lengths, n_processes, progress=progress)
    report = _reporter(world)
    cache_dir = args.cache_dir or Path(args.output_dir) / "cache"
    return cached_squad_features(cache_dir, examples, tokenizer, *lengths, n_processes, report, progress=progress)


def _reporter(world: World) -> Callable[[str], None]:
    """Prints, on the first rank only."""
    return functools.partial(print, flush=True) if world.is_first else lambda sentence: None
