"""What a run of SQuAD trains on and answers: files to questions, questions to windows, windows to batches."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import tokenization
from common.errors import Problems, UserError
from common.workers import usable_cores
from data.loading.synthetic import N_BATCHES, mean_length, synthetic_problem
from models.config import BertConfig
from pretrained.load import Pretrained
from tasks.squad.dataset import SquadDataset
from tasks.squad.examples import SquadExample, read_squad
from tasks.squad.features import SquadFeatures, cached_squad_features, squad_features
from tasks.squad.synthetic import N_WINDOWS, synthetic_features
from tokenization import BertTokenizer
from training.config.settings import Settings
from training.distributed.world import World

Examples = dict[str, list[SquadExample]]
"""By what they are for: `training` or `prediction`."""


def open_tokenizer(
    settings: Settings, config: BertConfig | None, pretrained: Pretrained | None, problems: Problems
) -> BertTokenizer | None:
    """The tokenizer of the vocabulary that the flags name, or that lies beside the weights.

    None where there is none, with problems noted where that is one.
    """
    flags = settings.task
    vocab_file = flags.vocab_file or (pretrained and pretrained.vocab_file)
    if vocab_file is None:
        if pretrained is not None:
            problems.add(
                f"{pretrained.path} has no vocabulary beside it", "give --vocab_file the one it was trained with"
            )
        return None
    tokenizer = None
    with problems.collect():
        tokenizer = tokenization.open_tokenizer(
            vocab_file, flags.do_lower_case, pretrained and pretrained.do_lower_case
        )
        if config is not None and not flags.vocab_file:
            problems.check(
                tokenizer.vocab_size == config.vocab_size,
                f"the vocabulary {vocab_file} has {tokenizer.vocab_size} entries and the model's configuration says "
                f"vocab_size {config.vocab_size}",
                "give --vocab_file the one the model was trained with",
            )
    return tokenizer


def read_examples(settings: Settings, world: World, problems: Problems) -> Examples:
    """What is to be trained on and answered, as far as it can be read."""
    flags, examples = settings.task, {}
    read = functools.partial(
        read_squad,
        version_2_with_negative=flags.version_2_with_negative,
        skip_bad_answers=flags.skip_bad_answers,
        report=_reporter(world),
    )
    if flags.do_train and flags.train_file:
        with problems.collect():
            examples["training"] = read(flags.train_file)
    if flags.predicts and flags.predict_file:
        with problems.collect():
            examples["prediction"] = read(flags.predict_file, answers_required=flags.do_eval)
    if flags.question is not None and flags.context is not None:
        with problems.collect():
            context = _read_context(flags.context)
            examples["prediction"] = [SquadExample("question", flags.question, context, (), False)]
    return examples


def make_datasets(
    settings: Settings, examples: Examples, tokenizer: BertTokenizer, world: World, problems: Problems
) -> dict[str, SquadDataset]:
    """The windows of the examples, in batches, by what they are for. Tokenizing takes its time."""
    datasets = {}
    for what, some in examples.items():
        with problems.collect():
            features = _features(settings, some, tokenizer, world)
            n_windows = settings.batches.micro if what == "training" else settings.task.predict_batch_size
            seed = settings.optimization.seed
            datasets[what] = SquadDataset(features, n_windows, settings.max_seq_length, seed, world.rank, world.size)
    return datasets


def make_synthetic(settings: Settings, world: World) -> SquadDataset:
    """Windows of random tokens to train on. Raises UserError where their lengths cannot be."""
    lengths, batches, seed = settings.measurement.synthetic, settings.batches, settings.optimization.seed
    if problem := synthetic_problem(lengths, settings.max_seq_length):
        raise UserError(problem)
    n_windows = max(N_WINDOWS, N_BATCHES * batches.micro * world.size)
    vocab_size, mean = settings.model.vocab_size, mean_length(lengths)
    features = synthetic_features(n_windows, settings.max_seq_length, vocab_size, mean, seed)
    return SquadDataset(features, batches.micro, settings.max_seq_length, seed, world.rank, world.size)


def _read_context(context: str) -> str:
    if not context.startswith("@"):
        return context
    try:
        return Path(context[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--context {context} cannot be read ({error})", "give @ and a text file in UTF-8") from error


def _features(
    settings: Settings, examples: Sequence[SquadExample], tokenizer: BertTokenizer, world: World
) -> SquadFeatures:
    flags = settings.task
    lengths = (flags.max_seq_length, flags.doc_stride, flags.max_query_length)
    progress = world.is_first and not settings.output.disable_progress_bar and len(examples) > 1
    n_processes = max(1, (flags.n_processes or usable_cores()) // world.local_size)
    if flags.skip_cache or len(examples) == 1:
        return squad_features(examples, tokenizer, *lengths, n_processes, progress=progress)
    cache_dir = flags.cache_dir or Path(settings.output.output_dir) / "cache"
    report = _reporter(world)
    return cached_squad_features(cache_dir, examples, tokenizer, *lengths, n_processes, report, progress=progress)


def _reporter(world: World) -> Callable[[str], None]:
    """Prints, on the first rank only."""
    return functools.partial(print, flush=True) if world.is_first else lambda sentence: None
