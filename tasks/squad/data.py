"""What a run of SQuAD trains on and answers: files to questions, questions to windows, windows to batches."""

import functools
from collections.abc import Sequence
from pathlib import Path

from common.errors import Problems
from common.text_files import read_text
from common.workers import usable_cores
from data.loading.synthetic import N_BATCHES, mean_length
from tasks.squad.arguments import SquadFlags
from tasks.squad.dataset import SquadDataset, synthetic_features
from tasks.squad.examples import SquadExample, read_squad
from tasks.squad.features import squad_features
from tokenization import BertTokenizer
from training.config.settings import Settings
from training.distributed.world import World

N_SYNTHETIC_WINDOWS = 4096


def read_examples(flags: SquadFlags, world: World, problems: Problems) -> dict[str, list[SquadExample]]:
    """What is to be trained on and answered, as far as it can be read, by what it is for."""
    examples = {}
    for what, path, use in (
        ("training", flags.do_train and flags.train_file, "train"),
        ("prediction", flags.predicts and flags.predict_file, "score" if flags.do_eval else "answer"),
    ):
        if path:
            with problems.collect():
                report = functools.partial(_print_once, world)
                checks = flags.version_2_with_negative, flags.skip_bad_answers
                examples[what] = read_squad(path, *checks, report, use)
    if flags.question is not None and flags.context is not None:
        with problems.collect():
            examples["prediction"] = [SquadExample("question", flags.question, _read_context(flags.context))]
    return examples


def make_dataset(
    settings: Settings, examples: Sequence[SquadExample], tokenizer: BertTokenizer, n_windows: int, world: World
) -> SquadDataset:
    """The windows of the examples in batches of `n_windows`. Tokenizing takes its time."""
    flags, is_one = settings.task, len(examples) == 1
    cache_dir = flags.cache_dir or Path(settings.output.output_dir) / "cache"
    features = squad_features(
        examples,
        tokenizer,
        flags.max_seq_length,
        flags.doc_stride,
        flags.max_query_length,
        n_processes=max(1, (flags.n_processes or usable_cores()) // world.local_size),
        cache_dir=None if is_one or flags.skip_cache else cache_dir,
        report=functools.partial(_print_once, world),
        progress=world.is_first and not is_one and not settings.output.disable_progress_bar,
    )
    seed = settings.optimization.seed
    return SquadDataset(features, n_windows, flags.max_seq_length, seed, world.rank, world.size)


def make_synthetic(settings: Settings, world: World) -> SquadDataset:
    """Windows of random tokens to train on."""
    batches, seed, longest = settings.batches, settings.optimization.seed, settings.max_seq_length
    n_windows = max(N_SYNTHETIC_WINDOWS, N_BATCHES * batches.micro * world.size)
    mean = mean_length(settings.measurement.synthetic)
    features = synthetic_features(n_windows, longest, settings.model.vocab_size, mean, seed)
    return SquadDataset(features, batches.micro, longest, seed, world.rank, world.size)


def _read_context(context: str) -> str:
    return (
        read_text(context[1:], "--context", "give @ and a text file in UTF-8") if context.startswith("@") else context
    )


def _print_once(world: World, sentence: str) -> None:
    if world.is_first:
        print(sentence, flush=True)
