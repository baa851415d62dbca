"""The stages of the data preparation: what each one reads, with which parameters, and what it says at the end.

The work itself is elsewhere (document_sources, corpus/sharding, create_pretraining_data, verify/), and so is the
decision whether there is anything to do (artifacts/stage_output). What a stage made appears only when it is whole;
create_hdf5_files does so file by file.
"""

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from common.errors import Problems, UserError
from common.words import counted
from common.workers import Workers
from data.artifacts.manifest import FILE_NAME, FileRecord
from data.artifacts.stage_output import Preparation, check_written_as
from data.corpus.documents import FormatOptions
from data.corpus.formatting import write_documents
from data.corpus.sentences import splitter_name
from data.corpus.sharding import FACTS, ShardingPlan, first_of_their_kind, survey, write_shards
from data.create_pretraining_data import create_shards, describe
from data.document_sources import document_sources, formatted_texts
from data.loading.prepared import read_manifest
from data.masked_lm.instances import InstanceOptions
from data.verify.shards import verify
from file_utils import atomic_path, atomic_write, remove_leftovers, sha256_of
from tokenization import UNK, BertTokenizer


def format_text(preparation: Preparation, options: FormatOptions) -> str:
    """One document per line."""
    layout = preparation.layout
    source = document_sources()[layout.dataset]
    folder, files = source.texts(layout)
    if not files:
        raise UserError(
            f"There is no {source.document} in {folder}", "run --action download, or leave --skip_wikiextractor out"
        )
    inputs = preparation.records(files)
    check_written_as(inputs, folder / FILE_NAME)
    manifest, formatted = layout.formatted_manifest, source.formatted(layout)
    output = preparation.output(manifest, "text_formatting", source.parameters(options), inputs, source.libraries)
    if finished := output.finished([formatted]):
        return finished.skipped(layout.formatted)
    layout.formatted.mkdir(parents=True, exist_ok=True)
    remove_leftovers(layout.formatted, f"{layout.dataset}*")
    with atomic_path(formatted) as new:
        made = write_documents(source, (folder, files), new, preparation.pool, options)
        # The manifest first: if the file is missing then, this is noticed; a file without a manifest would be refused.
        output.finish({formatted.name: made.record}, corpora=made.corpora, failures=made.failures)
    counts = made.record.counts
    share = counts["characters_left_out"] / max(1, counts["characters_left_out"] + counts["characters"])
    n_without = counts["documents_without_prose"]
    left_out = f"; {n_without:,} without prose and {share:.1%} of the text were left out" if n_without or share else ""
    of_each = (f"{name} {each['documents']:,} of {each['words']:,} words" for name, each in made.corpora.items())
    corpora = f" ({', '.join(of_each)})" if len(made.corpora) > 1 else ""
    failed = f"; {counts['failed']:,} cannot be used, the first: {made.failures[0]}" if made.failures else ""
    return f"{counted(counts['documents'], 'document')} with prose in {formatted}{corpora}{left_out}{failed}"


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
    output = preparation.output(folder / FILE_NAME, "sharding", parameters, surveyed, ["nltk", "regex"])
    if finished := output.finished(sorted(folder.glob("*.txt"))):
        is_old = "documents_of_one_sentence" not in finished.facts
        note = "; an earlier version did not know the sentences of other scripts, --overwrite splits them anew"
        return finished.skipped(folder) + (note if is_old else "")
    taken = first_of_their_kind([hashes for _, hashes in surveys])
    n_documents = sum(record.counts["documents"] for record in surveyed.values())
    n_repeated = n_documents - int(sum(of_file.sum() for of_file in taken))

    def write(new: Path) -> tuple[Mapping[str, Mapping[str, int]], Mapping[str, Any]]:
        counts, facts = write_shards(dict(zip(inputs, taken, strict=True)), new, plan, pool)
        return counts, {**facts, "repeated_documents": n_repeated}

    manifest = output.make_folder(write)
    notes = "".join(f"; {number:,} {FACTS[name]}" for name, number in manifest.facts.items() if number)
    return (
        f"{counted(manifest.total('documents'), 'document')}, "
        f"{counted(manifest.total('sentences'), 'sentence')} by {splitter_name()}, "
        f"in {counted(len(manifest.outputs), 'shard')} in {folder}{notes}"
    )


def text_shards(preparation: Preparation, folder: Path | None) -> dict[Path, FileRecord]:
    """The text shards in `folder` or, if that is None, in the only folder of the dataset.

    They are as sharding recorded them or, without a manifest, as they lie there.

    Raises:
        UserError: there are none, or there are several folders.
    """
    layout = preparation.layout
    if folder is None:
        folders = list(layout.working_dir.glob(f"sharded_*/{layout.dataset}"))
        if len(folders) != 1:
            raise UserError(
                f"There are {len(folders)} sets of text shards of {layout.dataset} under {layout.working_dir}",
                "run --action sharding, or say which with --n_training_shards, --n_test_shards and --fraction_test_set",
            )
        (folder,) = folders
    if manifest := read_manifest(folder):
        return {folder / name: record for name, record in manifest.outputs.items()}
    texts = sorted(folder.glob("*.txt"))
    if not texts:
        raise UserError(f"There are no text shards in {folder}", "run --action sharding with the same numbers first")
    return preparation.records(texts)


class _ShardTask(NamedTuple):
    text: Path
    text_sha256: str
    outputs: Sequence[tuple[InstanceOptions, Path]]  # the files that are to be made of it


def create_hdf5_files(
    preparation: Preparation,
    texts: Mapping[Path, FileRecord],
    folders: Mapping[Path, InstanceOptions],
    tokenizer: BertTokenizer,
    random_seed: int,
    compression: str,
) -> Iterator[str]:
    """Text shards to HDF5 shards in `folders`, all lengths in one pass over the text; a line for each length."""
    special = {name: getattr(tokenizer, f"{name}_token_id") for name in ("cls", "sep", "mask")}
    common = {
        "do_lower_case": tokenizer.do_lower_case,
        **tokenizer.unusual_rules,
        "random_seed": random_seed,
        "compression": compression,
        "vocabulary": {"sha256": sha256_of(tokenizer.vocab_file), "size": tokenizer.vocab_size, **special},
    }
    yield str(tokenizer)
    outputs, whole, finished = {}, {}, {}
    problems = Problems()
    for folder, options in folders.items():
        parameters, libraries = {**options.parameters(), **common}, ["numpy", "h5py", "tokenizers"]
        output = preparation.output(folder / FILE_NAME, "create_hdf5_files", parameters, texts, libraries)
        with problems.collect():
            outputs[folder], whole[folder] = output, output.whole_files(sorted(folder.glob("*.hdf5")))
            finished[folder] = output.manifest_of(whole[folder])
    problems.raise_if_any()

    unfinished = [folder for folder in folders if not finished[folder]]
    if unfinished and (missing := [text for text in texts if not text.is_file()]):
        raise UserError(
            f"There is no text shard {missing[0]} ({len(missing)} of {len(texts)} are missing)",
            "run --action sharding again, which makes them anew",
        )
    for folder in unfinished:
        outputs[folder].start_journal(whole[folder])
        if preparation.overwrite:
            for path in folder.glob("*.hdf5"):
                path.unlink()
    tasks = []
    for text, record in texts.items():
        name = f"{text.stem}.hdf5"
        if lacking := [(folders[folder], folder / name) for folder in unfinished if name not in whole[folder]]:
            tasks.append(_ShardTask(text, record.sha256, lacking))
    how = tokenizer.vocab_file, tokenizer.do_lower_case, random_seed, compression
    create = functools.partial(_create_shards, how=how)
    created = preparation.pool.map(create, tasks, "create_hdf5_files", _task_name)
    bar = tqdm(created, total=len(tasks), unit="shard", desc="HDF5", disable=not tasks)
    for task, records in zip(tasks, bar, strict=True):
        for (_, path), record in zip(task.outputs, records, strict=True):
            whole[path.parent][path.name] = record
            outputs[path.parent].add_to_journal(path.name, record)
    for folder in folders:
        if folder not in unfinished:
            yield finished[folder].skipped(folder)
            continue
        remove_leftovers(folder)  # of Dask's workers one may have been killed, and the stage went on
        files = {(name := f"{text.stem}.hdf5"): whole[folder][name] for text in texts}
        manifest = outputs[folder].finish(files, unk=tokenizer.vocab[UNK])
        yield f"{counted(manifest.total('rows'), 'training instance')} in {counted(len(texts), 'shard')} in {folder}"
        yield from describe(manifest.total, tokenizer.do_lower_case)


def _create_shards(task: _ShardTask, how: tuple[Path, bool, int, str]) -> list[FileRecord]:
    return create_shards([task.text], task.outputs, *how, text_sha256=task.text_sha256)


def _task_name(task: _ShardTask) -> str:
    return task.text.stem


def verify_folders(
    folders: Sequence[Path],
    pool: Workers,
    vocab_file: Path | None,
    report_file: Path | None,
    asked: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Check folders of text shards or of HDF5 shards, print what was found, and write it to `report_file` as JSON.

    `vocab_file` and `asked` are as in `verify`.

    Raises:
        UserError: a sentence for each folder in which a check failed.
    """
    if not folders:
        raise UserError("There is nothing to verify", "prepare the dataset first, or give folders as --input_files")
    reports, problems = [], Problems()
    for folder in folders:
        with problems.collect():  # the other folders are to be told of too
            reports.append(verify(folder, pool, vocab_file=vocab_file, asked=asked))
            print(reports[-1].text(), end="\n\n", flush=True)
            problems.extend([reports[-1].failure()])
    if report_file:
        with atomic_write(report_file) as file:
            json.dump([report.as_dict() for report in reports], file, indent=1)
    problems.raise_if_any()
    return f"verified: {', '.join(map(str, folders))}"
