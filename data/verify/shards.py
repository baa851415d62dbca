"""Proof that a folder of shards is what it should be: every row of every HDF5 file, ours or NVIDIA's; every document.

A shard that is damaged, cut short, made with another vocabulary or copied twice trains without complaint and costs
accuracy. So all of it is read, against the published rules and the manifest where there is one. NVIDIA's shards have
none; what it would say is taken from the vocabulary that is given, the folder's name and the rows' widths.
Of text shards the documents are compared: what is in both sets spoils the test loss, and nothing later can show it.
"""

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from tqdm import tqdm

from common.errors import UserError
from common.json_files import regular
from common.workers import Workers
from data.artifacts.manifest import FILE_NAME, JOURNAL_NAME, FileRecord, Manifest
from data.loading.lddl.files import lddl_files
from data.loading.prepared import masked_lm_prob_of, read_manifest, vocabulary_problem
from data.loading.shard_files import datasets_of, naming_problem, open_shard, shard_files, splits_of
from data.masked_lm.instances import DATASETS, SpecialIds
from data.masked_lm.masking import MASKING_RULES, rule_in
from data.verify import lddl, rows, text, varlen
from data.verify.report import FAILED, OK, WARNING, Findings, Offence, Report
from file_utils import sha256_of
from tokenization import CLS, MASK, SEP, UNK, load_vocab

BY_MANIFEST = ("files", "size and hash")
SOURCE = "made from these text shards"
SHARED_WITH_TEST = 1e-3  # of the test set's documents; a large corpus has stubs of the same words
MAX_COMPARED = 2**22  # hashes of all files together; 32 MB


def verify(
    folder: Path, pool: Workers, *, vocab_file: str | Path | None = None, asked: Sequence[Mapping[str, Any]] = ()
) -> Report:
    """Checks all shards in `folder`: its HDF5 files or LDDL's Parquet files or, if there are none, its text files.

    Args:
        vocab_file: the vocabulary that shards were made with; of HDF5 files by default what the manifest says of it.
        asked: parameters, by their names in a manifest, one set of which HDF5 files must have been made with.

    Raises:
        UserError: there are no shards, or they are unfinished; no vocabulary is known, or another than was given;
            other parameters than were asked for.
    """
    files, kind = _files_of(folder)
    manifest = read_manifest(folder)
    if manifest is None and (folder / JOURNAL_NAME).exists():
        raise UserError(f"The shards in {folder} are unfinished", "run --action create_hdf5_files to its end")
    notes = [] if manifest else [f"There is no {FILE_NAME}; hashes and lost files cannot be checked."]
    check_file, check_shares = text.check_text, text.check_shares
    if kind is lddl:
        check_file, check_shares, notes = lddl.checks_of(folder, files, vocab_file)
    if kind is rows:
        expected, more_notes = _expected(folder, files, manifest, vocab_file, asked)
        check_shard = rows.check_shard if datasets_of(files[0]) is DATASETS else varlen.check_shard
        check_file = functools.partial(check_shard, expected=expected)
        check_shares = functools.partial(rows.check_shares, expected=expected)
        notes += more_notes
    sources = _sources(folder, manifest)
    checks = (*(BY_MANIFEST if manifest else ()), *([SOURCE] if sources else ()), "readable", *kind.CHECKS)
    report = Report(folder, checks, notes, *(["LDDL"] if kind is lddl else ()))
    if manifest:
        names = {file.name for file in files}
        for name in sorted(manifest.outputs.keys() ^ names):
            where = "in the folder" if name in names else f"in {FILE_NAME}"
            report.offend("files", name, Offence(f"it is only {where}"))
    for name, is_same in sources.items():
        if not is_same:
            report.offend(SOURCE, f"{Path(name).stem}.hdf5", Offence(f"{name} was made anew since"))

    records = [manifest.outputs.get(file.name) if manifest else None for file in files]
    splits = splits_of(files)
    verify_file = functools.partial(_verify_file, check=check_file)
    found = pool.map(verify_file, zip(files, records, strict=True), "verify", _task_name)
    totals: dict[str, Findings] = {}
    hashes, limit, is_sampled = [], MAX_COMPARED // len(files), False
    for file, findings in zip(files, tqdm(found, total=len(files), unit="shard", desc="verify"), strict=True):
        for check, offence in findings.offences.items():
            report.offend(check, file.name, offence)
        totals.setdefault(splits[file], Findings()).count(files=1, **findings.counts)
        # Of two files that share much, the smallest hashes tell; copied, so that the others' memory is free.
        hashes.append(findings.hashes[:limit].copy())
        is_sampled |= len(findings.hashes) > limit
    if is_sampled:
        report.notes.append(f"Of each file, at most {limit:,} {kind.UNIT} were compared with other files'.")
    _compare_files(report, kind, splits, hashes)
    for split in sorted(totals, reverse=True):
        counts = totals[split].counts
        check_shares(totals[split])  # each file may be too small to tell
        for name, offence in totals[split].offences.items():
            if report.status(name) == OK:
                first = next(file.name for file in files if splits[file] == split)
                report.offend(
                    name, first, dataclasses.replace(offence, what=f"with the others of its set, {offence.what}")
                )
        report.statistics[split] = counts if kind is text else rows.statistics(counts)
    return report


def _files_of(folder: Path) -> tuple[list[Path], ModuleType]:
    """The shards of the one kind that is verified, and what verifies it."""
    files = _shards(folder, "hdf5")
    if problem := naming_problem(files):
        raise UserError(problem)
    kinds = ((lddl_files(folder), lddl), (files, rows), (_shards(folder, "txt"), text))
    for found, kind in kinds:
        if found:
            return found, kind
    what = f"There are no shards (.hdf5, LDDL's .parquet or .txt) in {folder}"
    raise UserError(what, "make them with data/bertPrep.py")


def _shards(folder: Path, kind: str) -> list[Path]:
    # By split first: of the files that share something, neighbors are compared.
    splits = splits_of(shard_files(folder, kind))
    return sorted(splits, key=splits.__getitem__)


def _task_name(task: tuple[Path, FileRecord | None]) -> str:
    return task[0].name


def _verify_file(task: tuple[Path, FileRecord | None], check: Callable[[Path], Findings]) -> Findings:
    path, record = task
    try:
        findings = check(regular(path))
        if record is not None and sha256_of(path) != record.sha256:
            findings.offend("size and hash", Offence(f"it is not the file that {FILE_NAME} describes"))
    except (OSError, RuntimeError, KeyError, ValueError) as error:  # h5py raises any of them for damaged files
        findings = Findings()
        findings.offend("readable", Offence(f"it cannot be read ({error})"))
    return findings


def _compare_files(
    report: Report, kind: ModuleType, split_of: Mapping[Path, str], hashes: Sequence[np.ndarray]
) -> None:
    """Reports what several files hold; of texts, a failure only where both sets share more than stubs."""
    files, splits = list(split_of), list(split_of.values())
    repeated = repeated_between(hashes)
    n_test = sum(len(each) for split, each in zip(splits, hashes, strict=True) if split == "test")
    are_few = sum(n for a, b, n in repeated if splits[a] != splits[b]) <= SHARED_WITH_TEST * n_test
    for a, b, n in repeated:
        is_apart = kind is text and splits[a] != splits[b]
        status = WARNING if kind is text and (are_few or not is_apart) else FAILED
        offence = Offence(f"{n:,} of its {kind.UNIT} are in {files[a].name} too", n, status=status)
        report.offend(text.IN_BOTH_SETS if is_apart else kind.REPEATED, files[b].name, offence)


def repeated_between(hashes: Sequence[np.ndarray]) -> list[tuple[int, int, int]]:
    """Pairs of files that share hashes, and how many: of more than two with one, each and the next.

    Args:
        hashes: of each file, distinct ones, (n,) uint64.
    """
    files = np.repeat(np.arange(len(hashes)), list(map(len, hashes)))
    joined = np.concatenate(hashes)
    order = np.lexsort((files, joined))
    joined, files = joined[order], files[order]
    is_same = joined[1:] == joined[:-1]
    pairs = Counter(zip(files[:-1][is_same].tolist(), files[1:][is_same].tolist(), strict=True))
    return [(a, b, n) for (a, b), n in sorted(pairs.items())]


def _sources(folder: Path, manifest: Manifest | None) -> dict[str, bool]:
    """Of each text shard that HDF5 files were made from and whose manifest is there: whether it is still the same."""
    if manifest is None or manifest.stage != "create_hdf5_files":
        return {}
    texts = {folder.absolute().parent.parent / name: record for name, record in manifest.inputs.items()}
    current = {parent: read_manifest(parent) for parent in {path.parent for path in texts}}
    return {
        path.name: path.name in now.outputs and now.outputs[path.name].sha256 == record.sha256
        for path, record in texts.items()
        if (now := current[path.parent])
    }


def _expected(
    folder: Path,
    files: Sequence[Path],
    manifest: Manifest | None,
    vocab_file: str | Path | None,
    asked: Sequence[Mapping[str, Any]],
) -> tuple[rows.Expected, list[str]]:
    """What the shards are compared with, and sentences that say where that is from."""
    parameters = dict(manifest.parameters) if manifest else {}
    notes = []
    fitting = [each for each in asked if all(parameters.get(name, each[name]) == each[name] for name in each)]
    if asked and not fitting:
        wanted = " or ".join(", ".join(f"{name} {value}" for name, value in each.items()) for each in asked)
        was = ", ".join(f"{name} {parameters[name]}" for name in asked[0] if name in parameters)
        raise UserError(f"{folder} was made with {was}, and not with {wanted}", "correct these flags or leave them out")
    if len(fitting) == 1:
        parameters = {**fitting[0], **parameters}
    vocabulary = parameters.get("vocabulary")
    if vocab_file is not None:
        ids = load_vocab(vocab_file)
        if problem := vocabulary_problem(folder, str(vocab_file), len(ids)):
            raise UserError(problem)
        vocabulary = {"cls": ids[CLS], "sep": ids[SEP], "mask": ids[MASK], "unk": ids[UNK], "size": len(ids)}
    if not vocabulary:
        raise UserError(f"No {FILE_NAME} in {folder} says which vocabulary the shards have", "give --vocab_file")
    special = SpecialIds(*(vocabulary[name] for name in ("cls", "sep", "mask", "size")))
    widths = parameters.get("max_seq_length"), parameters.get("max_predictions_per_seq")
    if None in widths and datasets_of(files[0]) is not DATASETS:
        widths = varlen.longest_in(files)
        longest = f"{widths[0]} tokens and {widths[1]} masked positions"
        notes.append(f"In the first file that can be read, rows have up to {longest}; none should have more.")
    elif None in widths:
        widths = _usual_widths(files)
        notes.append(f"Most files hold rows of {widths[0]} tokens and {widths[1]} masked positions; so should all.")
    probability, source = masked_lm_prob_of(folder, parameters)
    if source != FILE_NAME:
        notes.append(f"A share of {probability} of each row's tokens should be masked, {source}.")
    unknown = vocabulary.get("unk", manifest.facts.get("unk") if manifest else None)
    if unknown is None:
        notes.append(f"No {FILE_NAME} says which token is [UNK], so none was counted; --vocab_file does.")
    lower_case = parameters.get("do_lower_case")
    rule = MASKING_RULES[rule_in(parameters)]
    return rows.Expected(special, *widths, probability, rule, unknown, lower_case), notes


def _usual_widths(files: Sequence[Path]) -> tuple[int, int]:
    """Sequence length and masked positions per row of most of the files."""
    widths: Counter[tuple[int, int]] = Counter()
    for path in files:
        try:
            with open_shard(path) as datasets:
                widths[datasets["input_ids"].shape[1], datasets["masked_lm_positions"].shape[1]] += 1
        except UserError:  # told where the file is verified
            continue
    if not widths:
        raise UserError(f"{files[0]} is no pre-training shard, nor is any beside it", "give a folder of them")
    return widths.most_common(1)[0][0]
