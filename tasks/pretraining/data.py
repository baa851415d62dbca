"""Which shards a run of pre-training reads, or the random tokens that it makes in their place."""

import functools
from pathlib import Path

from common.errors import Problem, Problems, UserError
from common.tokenizer_files import VOCAB_NAME, stated_rules
from data.artifacts.layout import default_working_dir
from data.loading.lddl.files import lacks_masks
from data.loading.masking import DynamicMasking, masking_of
from data.loading.prepared import find_prepared, read_manifest, vocabulary_problem
from data.loading.pretraining_dataset import PretrainingDataset
from file_utils import sha256_of
from tasks.pretraining.synthetic import SyntheticPretraining
from training.config.settings import Settings
from training.distributed.world import World


def open_datasets(
    settings: Settings, world: World, problems: Problems
) -> tuple[PretrainingDataset | SyntheticPretraining | None, PretrainingDataset | None]:
    """What is trained on, and what is evaluated on; each None, with problems noted, where it cannot be opened."""
    flags, config, batches = settings.task, settings.model, settings.batches
    shape = {
        "micro_batch_size": batches.micro if batches else 1,
        "max_seq_length": flags.max_seq_length,
        "max_predictions_per_seq": flags.max_predictions_per_seq,
        "vocab_size": config.vocab_size if config else None,
        "rank": world.rank,
        "world_size": world.size,
    }
    seed, lengths = settings.optimization.seed, settings.measurement.synthetic
    if lengths is not None:
        return None if problems.found else SyntheticPretraining(lengths, **shape, seed=seed), None
    dataset = eval_dataset = None
    masking = of_training = of_evaluation = None
    if flags.masking == "dynamic":  # the masks of the training shards are taken out, and those held out may be fewer
        of_training, of_evaluation = range(flags.max_seq_length + 1), range(1, flags.max_predictions_per_seq + 1)
    open_shards = functools.partial(PretrainingDataset, **shape, vocab_file=flags.vocab_file)
    with problems.collect():
        folder = _shard_folder(settings, flags.input_dir or default_working_dir())
        with problems.collect():
            masking = _masking(settings, folder)
        options = {"seed": seed, "num_workers": flags.num_workers, "masking": masking}
        dataset = open_shards(folder, **options, n_predictions=of_training)
    if flags.eval_dir:
        with problems.collect():
            folder, masking = _shard_folder(settings, flags.eval_dir), None
            if lacks_masks(folder):  # masked by one seed for all, so that scores can be compared
                masking, of_evaluation = (
                    masking_of(folder, flags.max_predictions_per_seq, 0, vocab_file=flags.vocab_file),
                    range(1),
                )
            eval_dataset = open_shards(folder, split="test", masking=masking, n_predictions=of_evaluation)
    return dataset, eval_dataset


def _shard_folder(settings: Settings, folder: str | Path) -> Path:
    flags, config = settings.task, settings.model
    found = find_prepared(Path(folder), flags.max_seq_length, flags.max_predictions_per_seq, flags.dataset)
    if config is not None and (problem := vocabulary_problem(found, flags.vocab_file, config.vocab_size)):
        raise UserError(problem)
    return found


def _masking(settings: Settings, folder: Path) -> DynamicMasking | None:
    flags = settings.task
    if flags.masking == "static":
        return None
    return masking_of(
        folder,
        flags.max_predictions_per_seq,
        settings.optimization.seed,
        rule=flags.masking_rule,
        masked_lm_prob=flags.masked_lm_prob,
        vocab_file=flags.vocab_file,
    )


def tokens_problem(shards: Path, model_folder: Path, vocab_file: str | None) -> Problem | None:
    """Why shards do not have the tokens that weights were trained on; None where nothing says so.

    A `vocab_file` that was given is the shards', and counts in place of the one beside the weights.

    Raises UserError where the model has another tokenizer than the one that made them.
    """
    manifest = read_manifest(shards)
    vocabulary, beside = manifest and manifest.parameters.get("vocabulary"), model_folder / VOCAB_NAME
    if vocabulary and not vocab_file and beside.is_file() and sha256_of(beside) != vocabulary["sha256"]:
        return Problem(
            f"the shards in {shards} were not made with {beside}, the vocabulary of the initial weights",
            "make them with it, or give the --vocab_file that they were made with if its ids are the same",
        )
    of_shards = manifest.parameters.get("do_lower_case") if manifest else None
    of_model = None if of_shards is None else stated_rules(model_folder).get("do_lower_case")
    if of_model is None or of_model.value == of_shards:
        return None
    return Problem(
        f"the shards in {shards} were made with do_lower_case {of_shards}, and {of_model.where} says {of_model.value}",
        f"make them with the model's vocabulary and --do_lower_case {int(of_model.value)}",
    )
