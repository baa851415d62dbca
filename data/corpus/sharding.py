"""Documents to training and test shards: one sentence per line, an empty line after each document.

One pass, in memory that does not grow with the corpus. Each document goes whole to one shard: to the test set whenever
that has fallen behind its share of the sentences, and there, or in the training set, to the shard with the fewest. So
the test set is spread over the whole corpus, no document is in two shards, and shards differ in sentences by one
document at most. Splitting into sentences is the slow part and runs in parallel; the order of the documents decides
alone.

Documents that repeat an earlier one word for word are left out: a copy in the test set of what is trained on would
make the test loss worth nothing, and collections of books are full of them. They are found by hashes, 8 bytes each.
"""

import dataclasses
import hashlib
import heapq
import itertools
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from common.errors import UserError
from common.workers import Workers
from data.artifacts.manifest import FileRecord
from data.corpus.sentences import split_sentences

BATCH_CHARACTERS = 2**18  # text per task: large beside the cost of handing it over, small beside memory
BUFFERED_BYTES = 2**18  # text per shard that is held back, so that 512 shards need not be open at once
MAX_DOCUMENT_BYTES = 2**26  # of one line; the longest books have a tenth of it
MIN_DOCUMENTS = 2  # per shard: a random next sentence comes from another document of the same shard


@dataclasses.dataclass(frozen=True)
class ShardingPlan:
    """How many shards of each kind, and which share of the sentences is for testing."""

    training_names: Sequence[str]
    test_names: Sequence[str]
    fraction_test_set: float


class _Assigner:
    """Decides which shard a document goes to, from the numbers of sentences so far."""

    def __init__(self, plan: ShardingPlan):
        self.fraction = plan.fraction_test_set
        self.heaps = {
            split: [(0, index, name) for index, name in enumerate(names)]
            for split, names in (("training", plan.training_names), ("test", plan.test_names))
        }
        self.totals = {"training": 0, "test": 0}

    def shard_for(self, n_sentences: int) -> str:
        # Asked before this document counts: if its length had a say, the test set would gather the short ones.
        behind = self.totals["test"] < self.fraction * sum(self.totals.values())
        split = "test" if behind else "training"
        count, index, name = self.heaps[split][0]
        heapq.heapreplace(self.heaps[split], (count + n_sentences, index, name))
        self.totals[split] += n_sentences
        return name


def survey(path: Path) -> tuple[FileRecord, np.ndarray]:
    """Size, hash and number of documents of a formatted text; and a hash of each line, (lines,) uint64, 0 if blank.

    Raises:
        UserError: it is missing, or a line is too long to be a document.
    """
    digest, n_bytes, n_documents, hashes = hashlib.sha256(), 0, 0, array("Q")
    try:
        with open(path, "rb") as file:
            while line := file.readline(MAX_DOCUMENT_BYTES + 1):
                if len(line) > MAX_DOCUMENT_BYTES:
                    raise UserError(
                        f"Document {n_documents + 1} of {path} has more than {MAX_DOCUMENT_BYTES:,} bytes, and "
                        "documents are handled whole",
                        "put one document per line",
                    )
                digest.update(line)
                n_bytes += len(line)
                text = line.strip()
                n_documents += bool(text)
                hashes.append(int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") if text else 0)
    except FileNotFoundError as error:
        raise UserError(f"There is no formatted text {path}", "make it with --action text_formatting") from error
    return FileRecord(n_bytes, digest.hexdigest(), {"documents": n_documents}), np.frombuffer(hashes, dtype=np.uint64)


def first_of_their_kind(hashes: Sequence[np.ndarray]) -> list[np.ndarray]:
    """For each file's lines, (lines,) bool, whether a line is a document that no line before it is, in any file."""
    joined = np.concatenate(hashes)
    is_first = np.zeros(len(joined), dtype=bool)
    is_first[np.unique(joined, return_index=True)[1]] = True
    is_first &= joined != 0
    return np.split(is_first, np.cumsum([len(of_file) for of_file in hashes])[:-1])


def write_shards(
    inputs: Mapping[Path, np.ndarray], folder: Path, plan: ShardingPlan, pool: Workers
) -> dict[str, FileRecord]:
    """Write documents of `inputs` (one per line) as shards into `folder`, which is there and empty.

    Args:
        inputs: the files, and which of their lines to take, (lines,) bool; see `first_of_their_kind`.

    Returns:
        for each shard's file name its record, with the counts of documents and sentences.

    Raises:
        UserError: an input is not UTF-8 text, or a shard would get fewer than two documents.
    """
    n_documents = int(sum(taken.sum() for taken in inputs.values()))
    names = (*plan.training_names, *plan.test_names)
    if n_documents < MIN_DOCUMENTS * len(names):
        raise UserError(
            f"There are {n_documents} different documents in {' and '.join(map(str, inputs))}, and the {len(names)} "
            f"shards asked for need {MIN_DOCUMENTS} each",
            "lower --n_training_shards and --n_test_shards",
        )
    shards = {name: _Shard(folder / f"{name}.txt") for name in names}
    assigner = _Assigner(plan)
    with tqdm(total=n_documents, unit="document", desc="sharding") as progress:
        for documents in pool.map(_split_all, _batches(inputs), "sharding"):
            for sentences in filter(None, documents):
                shards[assigner.shard_for(len(sentences))].add(sentences)
            progress.update(len(documents))
    for name, shard in shards.items():
        if shard.n_documents < MIN_DOCUMENTS:
            raise UserError(
                f"The shard {name} would hold {shard.n_documents} of the {n_documents} documents and needs "
                f"{MIN_DOCUMENTS}",
                f"with a test share of {plan.fraction_test_set}, make fewer shards of its kind",
            )
    return {shard.path.name: shard.close() for shard in shards.values()}


class _Shard:
    """A text shard that is being written: opened now and then, since so many cannot be open at once."""

    def __init__(self, path: Path):
        self.path = path
        self.n_documents = self.n_sentences = self.n_bytes = 0
        self._digest = hashlib.sha256()
        self._held = bytearray()

    def add(self, sentences: list[str]) -> None:
        self._held += ("\n".join(sentences) + "\n\n").encode()
        self.n_documents += 1
        self.n_sentences += len(sentences)
        if len(self._held) > BUFFERED_BYTES:
            self._flush()

    def close(self) -> FileRecord:
        self._flush()
        counts = {"documents": self.n_documents, "sentences": self.n_sentences}
        return FileRecord(self.n_bytes, self._digest.hexdigest(), counts)

    def _flush(self) -> None:
        with open(self.path, "ab") as file:
            file.write(self._held)
        self._digest.update(self._held)
        self.n_bytes += len(self._held)
        self._held = bytearray()


def _split_all(documents: list[str]) -> list[list[str]]:
    return [split_sentences(document) for document in documents]


def _batches(inputs: Mapping[Path, np.ndarray]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for path, taken in inputs.items():
        for line in itertools.compress(_lines(path), taken):
            batch.append(line)
            size += len(line)
            if size >= BATCH_CHARACTERS:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


def _lines(path: Path) -> Iterator[str]:
    # Only "\n" ends a document, here as where they are counted; a stray "\r" must not end a sentence either.
    try:
        with open(path, encoding="utf-8", newline="\n") as lines:
            for line in lines:
                yield line.replace("\r", " ")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error})", "convert it, or format the corpus again") from error
