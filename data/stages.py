"""The stages of the data preparation: what each one reads, with which parameters, and what it says at the end.

The work itself is elsewhere (text_formatting, sharding, create_pretraining_data), and so is the decision whether there
is anything to do (stage_output). What a stage made appears only when it is whole; create_hdf5_files does so file by
file.
"""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from common.errors import Problems, UserError
from common.workers import Workers
from data.artifacts.manifest import FILE_NAME, FileRecord, Manifest
from data.artifacts.stage_output import Preparation, check_written_as
from data.corpus.sentences import splitter_name
from data.corpus.sharding import ShardingPlan, first_of_their_kind, survey, write_shards
from data.create_pretraining_data import create_shards
from data.document_sources import document_sources, formatted_texts
from data.masked_lm.instances import InstanceOptions
from data.verify.shards import verify
from file_utils import atomic_path, atomic_write, remove_leftovers, sha256_of
from tokenization import CLS, MASK, SEP, load_vocab


def format_text(preparation: Preparation) -> str:
    """One document per line."""
    layout = preparation.layout
    source = document_sources()[layout.dataset]
    folder, files = source.texts(layout)
    inputs = preparation.records(files)
    check_written_as(inputs, folder / FILE_NAME)
    manifest, formatted = layout.formatted_manifest, source.formatted(layout)
    output = preparation.output(manifest, "text_formatting", dict(source.parameters), inputs, [])
    if finished := output.finished([formatted]):
        return finished.skipped(layout.formatted)
    layout.formatted.mkdir(parents=True, exist_ok=True)
    remove_leftovers(layout.formatted, f"{layout.dataset}*")
    with atomic_path(formatted) as new:
        record = source.write_documents(files, new, preparation.pool)
        # The manifest first: if the file is missing then, this is noticed; a file without a manifest would be refused.
        output.finish({formatted.name: record})
    return f"{record.counts['documents']:,} {source.counted_as} in {formatted}"


def shard(preparation: Preparation, plan: ShardingPlan, folder: Path, inputs: Sequence[Path]) -> str:
    """Documents to sentences, spread over shards."""
    pool = preparation.pool
    surveys = list(pool.map(survey, inputs, "counting documents", str))
    surveyed = {path: record for path, (record, _) in zip(inputs, surveys, strict=True)}
    for manifest, formatted in formatted_texts(preparation.layout).items():
        if formatted in surveyed:
            check_written_as({formatted: surveyed[formatted]}, manifest)
    parameters = {
        "n_training_shards": len(plan.training_names),
        "n_test_shards": len(plan.test_names),
        "fraction_test_set": plan.fraction_test_set,
        "segmentation_method": splitter_name(),
    }
    output = preparation.output(folder / FILE_NAME, "sharding", parameters, surveyed, ["nltk"])
    if finished := output.finished(sorted(folder.glob("*.txt"))):
        return finished.skipped(folder)
    taken = first_of_their_kind([hashes for _, hashes in surveys])
    n_documents = sum(record.counts["documents"] for record in surveyed.values())
    n_repeated = n_documents - int(sum(of_file.sum() for of_file in taken))

    def write(new: Path) -> tuple[Mapping[str, FileRecord], Mapping[str, Any]]:
        shards = write_shards(dict(zip(inputs, taken, strict=True)), new, plan, pool)
        return shards, {"repeated_documents": n_repeated}

    manifest = output.make_folder(write)
    left_out = f"; {n_repeated:,} documents that repeat an earlier one were left out" if n_repeated else ""
    return (
        f"{manifest.total('documents'):,} documents, {manifest.total('sentences'):,} sentences by {splitter_name()}, "
        f"in {len(manifest.outputs)} shards in {folder}{left_out}"
    )


@dataclasses.dataclass(frozen=True)
class HDF5Plan:
    """How text shards become HDF5 shards, of one or more lengths at once."""

    names: Sequence[str]
    texts: Path
    folders: Mapping[Path, InstanceOptions]
    """Where the shards of each length go."""
    vocab_file: Path
    do_lower_case: bool
    random_seed: int
    compression: str


@dataclasses.dataclass(frozen=True)
class _ShardTask:
    name: str
    text: Path
    text_sha256: str
    folders: Sequence[Path]
    """Those that lack this shard."""


def create_hdf5_files(preparation: Preparation, plan: HDF5Plan) -> list[str]:
    """Text shards to HDF5 shards, all lengths in one pass over the text; returns a line for each length."""
    pool = preparation.pool
    inputs = _text_shards(preparation, plan)
    ids = load_vocab(plan.vocab_file)
    special = {"cls": ids[CLS], "sep": ids[SEP], "mask": ids[MASK]}
    vocabulary = {"sha256": sha256_of(plan.vocab_file), "size": len(ids), **special}
    outputs, whole, finished = {}, {}, {}
    problems = Problems()
    for folder, options in plan.folders.items():
        parameters = {
            **options.parameters(),
            "do_lower_case": plan.do_lower_case,
            "random_seed": plan.random_seed,
            "compression": plan.compression,
            "vocabulary": vocabulary,
        }
        libraries = ["numpy", "h5py", "tokenizers"]
        outputs[folder] = preparation.output(folder / FILE_NAME, "create_hdf5_files", parameters, inputs, libraries)
        with problems.collect():
            whole[folder] = outputs[folder].whole_files(sorted(folder.glob("*.hdf5")))
            finished[folder] = outputs[folder].manifest_of(whole[folder])
    problems.raise_if_any()

    unfinished = [folder for folder in plan.folders if not finished[folder]]
    for folder in unfinished:
        outputs[folder].start_journal(whole[folder])
        if preparation.overwrite:
            for stranger in set(folder.glob("*.hdf5")) - {folder / name for name in whole[folder]}:
                stranger.unlink()
    tasks = [
        _ShardTask(name, text, record.sha256, lacking)
        for name, (text, record) in zip(plan.names, inputs.items(), strict=True)
        if (lacking := [folder for folder in unfinished if f"{name}.hdf5" not in whole[folder]])
    ]
    results = pool.map(functools.partial(_create_shard_files, plan=plan), tasks, "create_hdf5_files", _task_name)
    for task, records in zip(
        tasks, tqdm(results, total=len(tasks), unit="shard", desc="HDF5", disable=not tasks), strict=True
    ):
        for folder, record in zip(task.folders, records, strict=True):
            whole[folder][f"{task.name}.hdf5"] = record
            outputs[folder].add_to_journal(f"{task.name}.hdf5", record)
    lines = []
    for folder in plan.folders:
        if finished[folder]:
            lines.append(finished[folder].skipped(folder))
        else:
            remove_leftovers(folder)  # of Dask's workers one may have been killed, and the stage went on
            manifest = outputs[folder].finish({f"{name}.hdf5": whole[folder][f"{name}.hdf5"] for name in plan.names})
            lines.append(f"{manifest.total('rows'):,} training instances in {len(plan.names)} shards in {folder}")
    return lines


def _text_shards(preparation: Preparation, plan: HDF5Plan) -> dict[Path, FileRecord]:
    """The text shards by the order of the plan's names, as sharding recorded them or, without a record, as they are."""
    texts = [plan.texts / f"{name}.txt" for name in plan.names]
    missing = [text for text in texts if not text.is_file()]
    if missing:
        raise UserError(
            f"There is no text shard {missing[0]} ({len(missing)} of {len(texts)} are missing)",
            "run --action sharding with the same numbers of shards first",
        )
    if not (plan.texts / FILE_NAME).is_file():
        return preparation.records(texts)
    recorded = Manifest.read(plan.texts / FILE_NAME).outputs
    strangers = [text for text in texts if text.name not in recorded]
    if strangers:
        raise UserError(f"{strangers[0]} is not in {plan.texts / FILE_NAME}", "run --action sharding again")
    return {text: recorded[text.name] for text in texts}


def _create_shard_files(task: _ShardTask, plan: HDF5Plan) -> list[FileRecord]:
    outputs = [(plan.folders[folder], folder / f"{task.name}.hdf5") for folder in task.folders]
    created = create_shards(
        [task.text],
        outputs,
        plan.vocab_file,
        plan.do_lower_case,
        plan.random_seed,
        plan.compression,
        text_sha256=task.text_sha256,
    )
    return created.files


def _task_name(task: _ShardTask) -> str:
    return task.name


def verify_folders(folders: Sequence[Path], pool: Workers, vocab_file: Path | None, report_file: Path | None) -> str:
    """Check folders of text shards or of HDF5 shards, print what was found, and write it to `report_file` as JSON.

    Raises:
        UserError: a sentence for each folder in which a check failed.
    """
    if not folders:
        raise UserError("There is nothing to verify", "prepare the dataset first, or give folders as --input_files")
    reports, unusable = [], []
    for folder in folders:
        try:
            reports.append(verify(folder, pool, vocab_file=vocab_file))
        except UserError as error:  # the other folders are to be told of too
            unusable += error.problems
            continue
        print(reports[-1].text(), end="\n\n", flush=True)
    if report_file:
        with atomic_write(report_file) as file:
            json.dump([report.as_dict() for report in reports], file, indent=1)
    failures = [*unusable, *(failure for report in reports if (failure := report.failure()))]
    if failures:
        raise UserError(failures)
    return f"verified: {', '.join(map(str, folders))}"
