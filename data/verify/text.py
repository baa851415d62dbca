"""Proof that a folder of text shards is what it should be, and that no document is for training and for testing.

The second is what a test loss stands on, and nothing later can show it: in HDF5 a document is cut into pairs. Documents
are compared by hashes of their text, 8 bytes each.
"""

import dataclasses
import functools
import hashlib
from collections import defaultdict
from pathlib import Path

import numpy as np
from tqdm import tqdm

from common.errors import UserError
from common.workers import Workers
from data.artifacts.manifest import FILE_NAME, FileRecord
from data.verify.report import (
    FAILED,
    WARNING,
    Checks,
    Repetitions,
    Report,
    manifest_of,
    name_of,
    offence_of_bytes,
    split_of,
)

BY_MANIFEST = ("files", "size and hash", "documents and sentences", "balance")
BY_TEXT = ("UTF-8", "two documents", "training apart from test", "documents repeated")
CHECKS = ("finished",) + BY_MANIFEST + BY_TEXT  # noqa: RUF005
SHARED_WITH_TEST = 1e-3  # of the test set; a large corpus has stubs of the same words, which prove no mistake
MIN_DOCUMENTS = 2  # a random next sentence comes from another one


@dataclasses.dataclass(frozen=True)
class _Text:
    """What was found in a text shard."""

    n_sentences: int
    longest: int
    """Sentences of its longest document."""
    hashes: np.ndarray
    """(documents,) uint64"""
    offences: dict[str, str]


def verify_text(folder: Path, pool: Workers) -> Report:
    """Checks all text shards in `folder`: one sentence per line, an empty line after each document.

    Documents in the training and in the test set are a failure, very few of them a warning, and so is what repeats
    within a set.

    Raises:
        UserError: there are no shards, or the manifest cannot be read.
    """
    folder = Path(folder)
    # By split first: of the files that share a document, neighbors are compared.
    files = sorted(
        (file for file in folder.glob("*.txt") if not file.name.startswith(".")),
        key=lambda file: (split_of(file.name), file.name),
    )
    if not files:
        raise UserError(f"There are no text shards (.txt) in {folder}", "make them with --action sharding")
    checks = Checks(CHECKS)
    manifest = manifest_of(folder, checks, files, BY_MANIFEST)
    records = [manifest.outputs.get(file.name) if manifest else None for file in files]
    texts = tqdm(
        pool.map(_verify_shard, zip(files, records, strict=True), "verify", name_of),
        total=len(files),
        unit="shard",
        desc="verify text",
    )
    repetitions, numbers = Repetitions(), defaultdict(functools.partial(defaultdict, int))
    sentences: dict[str, dict[str, int]] = defaultdict(dict)
    for number, (file, text) in enumerate(zip(files, texts, strict=True)):
        for check, what in text.offences.items():
            checks.offend(check, file.name, what)
        hashes = np.unique(text.hashes)
        of_split = numbers[split_of(file.name)]
        of_split["files"] += 1
        of_split["documents"] += len(text.hashes)
        of_split["sentences"] += text.n_sentences
        of_split["longest document, in sentences"] = max(of_split["longest document, in sentences"], text.longest)
        if n_repeated := len(text.hashes) - len(hashes):
            what = f"{n_repeated:,} of its documents are in it before"
            checks.offend("documents repeated", file.name, what, n_repeated, status=WARNING)
        sentences[split_of(file.name)][file.name] = text.n_sentences
        repetitions.add(hashes, number)
    if manifest:
        for split, of_shards in sentences.items():
            _check_balance(checks, of_shards, numbers[split]["longest document, in sentences"])
    _check_repetitions(checks, repetitions, [file.name for file in files], numbers["test"]["documents"])
    notes = [] if manifest else [f"There is no {FILE_NAME}; hashes, counts and lost files cannot be checked."]
    if repetitions.share < 1:
        share = f"{repetitions.share:.2%}"
        notes.append(f"Of the documents of different files, {share} were compared, chosen by their hashes.")
    statistics = {split: dict(numbers[split]) for split in sorted(numbers, reverse=True)}
    return Report(str(folder), checks.as_list(), statistics, notes)


def _check_balance(checks: Checks, sentences: dict[str, int], longest: int) -> None:
    most, fewest = max(sentences, key=sentences.__getitem__), min(sentences, key=sentences.__getitem__)
    if sentences[most] - sentences[fewest] > longest:
        checks.offend(
            "balance",
            most,
            f"it has {sentences[most]:,} sentences and {fewest} {sentences[fewest]:,}, which differ by more than the "
            f"longest document's {longest:,}",
        )


def _check_repetitions(checks: Checks, repetitions: Repetitions, names: list[str], n_test: int) -> None:
    repeated = repetitions.between_files()
    between_sets = sum(n for a, b, n in repeated if split_of(names[a]) != split_of(names[b]))
    for a, b, n_documents in repeated:
        of_set = split_of(names[a]) == split_of(names[b])
        what = f"{n_documents:,} of its documents are in {names[b]} too"
        if of_set:
            checks.offend("documents repeated", names[a], what, n_documents, status=WARNING)
        else:
            status = FAILED if between_sets > SHARED_WITH_TEST * n_test * repetitions.share else WARNING
            checks.offend("training apart from test", names[a], what, n_documents, status=status)


def _verify_shard(task: tuple[Path, FileRecord | None]) -> _Text:
    path, record = task
    offences: dict[str, str] = {}
    hashes, n_sentences, longest, utf8_problem = _read_documents(path)
    if utf8_problem:
        offences["UTF-8"] = utf8_problem
    if len(hashes) < MIN_DOCUMENTS:
        offences["two documents"] = f"it has {len(hashes)} documents and needs {MIN_DOCUMENTS}"
    if record is not None:
        if what := offence_of_bytes(path, record):
            offences["size and hash"] = what
        for count, found in (("documents", len(hashes)), ("sentences", n_sentences)):
            if record.counts.get(count, found) != found:
                what = f"it has {found:,} {count}, and {FILE_NAME} says {record.counts[count]:,}"
                offences["documents and sentences"] = what
    return _Text(n_sentences, longest, hashes, offences)


def _read_documents(path: Path) -> tuple[np.ndarray, int, int, str]:
    """Hashes of the documents, (documents,) uint64; sentences in all and in the longest; what is not UTF-8, or ""."""
    hashes, n_sentences, longest, problem = [], 0, 0, ""
    digest, in_document = hashlib.blake2b(digest_size=8), 0
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not problem and not line.isascii():
                try:
                    line.decode("utf-8")
                except UnicodeDecodeError as error:
                    problem = f"line {number:,} is not UTF-8 ({error.reason})"
            if sentence := line.strip():
                digest.update(sentence + b"\n")
                in_document += 1
                continue
            if in_document:
                hashes.append(int.from_bytes(digest.digest(), "little"))
                n_sentences, longest = n_sentences + in_document, max(longest, in_document)
                digest, in_document = hashlib.blake2b(digest_size=8), 0
    if in_document:
        hashes.append(int.from_bytes(digest.digest(), "little"))
        n_sentences, longest = n_sentences + in_document, max(longest, in_document)
    return np.array(hashes, dtype=np.uint64), n_sentences, longest, problem
