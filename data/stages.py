"""The stages of the data preparation: what each one reads, when there is nothing to do, and the record of what it did.

The work itself is elsewhere (text_formatting, sharding, create_pretraining_data). Here each stage looks up its input
in what the stage before wrote down, compares what it would do with what lies there (see stage_output), and leaves a
manifest behind. What a stage made appears only when it is whole; create_hdf5_files does so file by file.
"""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from common.errors import Problems, UserError
from common.workers import Workers
from data.artifacts.layout import BOOKS, Layout
from data.artifacts.manifest import FILE_NAME, FileRecord, Manifest, versions_of
from data.artifacts.stage_output import StageOutput, file_records, relative_to, replace_folder, scratch_folder
from data.corpus.sentences import splitter_name
from data.corpus.sharding import ShardingPlan, first_of_their_kind, survey, write_shards
from data.corpus.text_formatting import MIN_WORDS, book_files, format_books, format_wikipedia
from data.corpus.wikipedia import extract_wikipedia, extracted_files
from data.create_pretraining_data import create_shards
from data.masked_lm.instances import InstanceOptions
from data.verify.shards import verify
from data.verify.text import verify_text
from file_utils import atomic_write, sha256_of
from tokenization import CLS, MASK, SEP, load_vocab


@dataclasses.dataclass(frozen=True)
class Preparation:
    """What all stages share: where things lie, who works, and whether to replace what is there."""

    layout: Layout
    pool: Workers
    overwrite: bool

    def output(
        self,
        manifest_path: Path,
        stage: str,
        parameters: Mapping[str, object],
        inputs: Mapping[Path, FileRecord],
        libraries: Sequence[str],
    ) -> StageOutput:
        """What `stage` would write."""
        named = {relative_to(path, self.layout.working_dir): record for path, record in inputs.items()}
        wanted = Manifest(stage, self.layout.dataset, parameters, named, {}, versions_of(libraries))
        return StageOutput(manifest_path, wanted, self.overwrite)

    def records(self, paths: Sequence[Path], manifest: Path | None = None) -> dict[Path, FileRecord]:
        """Files and what they are now.

        Args:
            manifest: of the stage that wrote them, beside them or above.

        Raises:
            UserError: the manifest is there and says otherwise of a file.
        """
        records = dict(zip(paths, file_records(paths, self.pool, "checking the input"), strict=True))
        if manifest is not None:
            check_written_as(records, manifest)
        return records


def check_written_as(records: Mapping[Path, FileRecord], manifest: Path) -> None:
    """Raises UserError if a manifest that is there says otherwise of a file, or nothing."""
    if not manifest.is_file():
        return
    written = Manifest.read(manifest)
    action = "text_formatting" if written.stage == "extraction" else written.stage
    for path, record in records.items():
        was = written.outputs.get(path.relative_to(manifest.parent).as_posix())
        if was is None or was.sha256 != record.sha256:
            what = "is not in" if was is None else "has changed since it was recorded in"
            raise UserError(
                f"{path} {what} {manifest}",
                f"start --action {action} --dataset {written.dataset} again, with --overwrite if it is to be replaced",
            )


def _skipped(manifest: Manifest, folder: Path) -> str:
    n_bytes = sum(record.bytes for record in manifest.outputs.values())
    return (
        f"{manifest.stage} of {manifest.dataset} was finished before: {len(manifest.outputs)} files, "
        f"{n_bytes / 1e6:,.1f} MB, are as they were written; nothing to do in {folder}"
    )


def extract(preparation: Preparation) -> str:
    """Wikipedia's dump to the articles' text, without markup."""
    layout, pool = preparation.layout, preparation.pool
    if not layout.dump.is_file():
        raise UserError(f"There is no Wikipedia dump at {layout.dump}", "get one with --action download")
    inputs = preparation.records([layout.dump], layout.download / FILE_NAME)
    output = preparation.output(layout.extracted / FILE_NAME, "extraction", {}, inputs, ["wikiextractor"])
    whole = output.whole_files(pool, extracted_files(layout.extracted))
    if finished := output.finished(whole):
        return _skipped(finished, layout.extracted)
    with scratch_folder(layout.extracted) as scratch:
        new = scratch / layout.extracted.name
        new.mkdir()
        articles_of = extract_wikipedia(layout.dump, new, pool)
        paths = [new / name for name in articles_of]
        records = file_records(paths, pool, "hashing what was extracted")
        outputs = {
            name: dataclasses.replace(record, counts={"articles": articles_of[name]})
            for name, record in zip(articles_of, records, strict=True)
        }
        manifest = dataclasses.replace(output.wanted, outputs=outputs)
        manifest.write(new / FILE_NAME)
        replace_folder(new, layout.extracted)
    return f"{manifest.total('articles'):,} articles extracted to {layout.extracted}"


def format_text(preparation: Preparation) -> str:
    """One document per line."""
    layout, pool = preparation.layout, preparation.pool
    formatted = layout.formatted_files[0]
    if layout.dataset == BOOKS:
        paths, parameters, source = book_files(layout.download), {}, layout.download
    else:
        paths, parameters, source = extracted_files(layout.extracted), {"min_words": MIN_WORDS}, layout.extracted
        if not paths:
            raise UserError(f"There are no extracted articles in {layout.extracted}", "leave --skip_wikiextractor out")
    inputs = preparation.records(paths, source / FILE_NAME)
    output = preparation.output(layout.formatted_manifest, "text_formatting", parameters, inputs, [])
    whole = output.whole_files(pool, [formatted])
    if finished := output.finished(whole):
        return _skipped(finished, formatted.parent)
    with scratch_folder(formatted) as scratch:
        new = scratch / formatted.name
        n_documents = (format_books if layout.dataset == BOOKS else format_wikipedia)(paths, new, pool)
        # The manifest first: if the file is missing then, this is noticed; a file without a manifest would be refused.
        output.finish({formatted.name: FileRecord.of(new, documents=n_documents)})
        new.replace(formatted)
    kind = "books" if layout.dataset == BOOKS else "articles with prose"
    return f"{n_documents:,} {kind} in {formatted}"


def shard(preparation: Preparation, plan: ShardingPlan, folder: Path, inputs: Sequence[Path]) -> str:
    """Documents to sentences, spread over shards."""
    pool = preparation.pool
    surveys = list(pool.map(survey, inputs, "counting documents", str))
    surveyed = {path: record for path, (record, _) in zip(inputs, surveys, strict=True)}
    for manifest, formatted in preparation.layout.formatted_manifests.items():
        if formatted in surveyed:
            check_written_as({formatted: surveyed[formatted]}, manifest)
    parameters = {
        "n_training_shards": len(plan.training_names),
        "n_test_shards": len(plan.test_names),
        "fraction_test_set": plan.fraction_test_set,
        "segmentation_method": splitter_name(),
    }
    output = preparation.output(folder / FILE_NAME, "sharding", parameters, surveyed, ["nltk"])
    whole = output.whole_files(pool, sorted(folder.glob("*.txt")))
    if finished := output.finished(whole):
        return _skipped(finished, folder)
    with scratch_folder(folder) as scratch:
        new = scratch / folder.name
        new.mkdir()
        taken = first_of_their_kind([hashes for _, hashes in surveys])
        outputs = write_shards(dict(zip(inputs, taken, strict=True)), new, plan, pool)
        n_repeated = sum(record.counts["documents"] for record in surveyed.values()) - int(
            sum(of_file.sum() for of_file in taken)
        )
        manifest = dataclasses.replace(output.wanted, outputs=outputs, facts={"repeated_documents": n_repeated})
        manifest.write(new / FILE_NAME)
        replace_folder(new, folder)
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
            whole[folder] = outputs[folder].whole_files(pool, sorted(folder.glob("*.hdf5")))
            finished[folder] = outputs[folder].finished(whole[folder])
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
            lines.append(_skipped(finished[folder], folder))
        else:
            outputs[folder].remove_leftovers()  # of Dask's workers one may have been killed, and the stage went on
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
    if sha256_of(task.text) != task.text_sha256:
        raise UserError(f"{task.text} is not as it was written", "run --action sharding again, which makes it anew")
    outputs = [(plan.folders[folder], folder / f"{task.name}.hdf5") for folder in task.folders]
    created = create_shards(
        [task.text], outputs, plan.vocab_file, plan.do_lower_case, plan.random_seed, plan.compression
    )
    return created.files


def _task_name(task: _ShardTask) -> str:
    return task.name


def verify_folders(folders: Sequence[Path], pool: Workers, vocab_file: str | None, report_file: str | None) -> str:
    """Check folders of text shards or of HDF5 shards, print what was found, and write it to `report_file` as JSON.

    Raises:
        UserError: a sentence for each folder in which a check failed.
    """
    if not folders:
        raise UserError("There is nothing to verify", "prepare the dataset first, or give folders as --input_files")
    reports, unusable = [], []
    for folder in folders:
        is_text = not any(folder.glob("*.hdf5")) and any(folder.glob("*.txt"))
        try:
            reports.append(verify_text(folder, pool) if is_text else verify(folder, pool, vocab_file=vocab_file))
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
