"""Documents to training and test shards: one sentence per line, an empty line after each document.

One pass, in memory that does not grow with the corpus. Each document goes whole to one shard: to the test set whenever
that has fallen behind its share of the sentences, and there, or in the training set, to the shard with the fewest.

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
from types import MappingProxyType

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
# What is counted of the corpus beside its shards, and how it is said.
FACTS = MappingProxyType(
    {
        "repeated_documents": "documents that repeat an earlier one were left out",
        "documents_without_a_sentence": "documents without a sentence were left out",
        "documents_of_one_sentence": "documents have one sentence",
        "lone_surrogates": "lone surrogates, which are no characters, were taken out",
    }
)


@dataclasses.dataclass(frozen=True)
class ShardingPlan:
    """How many shards of each kind, and which share of the sentences is for testing."""

    training_names: Sequence[str]
    test_names: Sequence[str]
    fraction_test_set: float


def survey(path: Path) -> tuple[FileRecord, np.ndarray]:
    """The record, with its documents, of a formatted text; and a hash of each line, (lines,) uint64, 0 if blank."""
    n_documents, hashes = 0, array("Q")
    try:
        with open(path, "rb") as file:
            while line := file.readline(MAX_DOCUMENT_BYTES + 1):
                if len(line) > MAX_DOCUMENT_BYTES:
                    raise UserError(
                        f"Document {n_documents + 1} of {path} has more than {MAX_DOCUMENT_BYTES:,} bytes, and "
                        "documents are handled whole",
                        "put one document per line",
                    )
                text = line.strip()
                n_documents += bool(text)
                hashes.append(int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") if text else 0)
    except FileNotFoundError as error:
        raise UserError(f"There is no formatted text {path}", "make it with --action text_formatting") from error
    return FileRecord.of(path, documents=n_documents), np.frombuffer(hashes, dtype=np.uint64)


def first_of_their_kind(hashes: Sequence[np.ndarray]) -> list[np.ndarray]:
    """For each file's lines, (lines,) bool, whether a line is a document that no line before it is, in any file."""
    joined = np.concatenate(hashes)
    is_first = np.zeros(len(joined), dtype=bool)
    is_first[np.unique(joined, return_index=True)[1]] = True
    is_first &= joined != 0
    return np.split(is_first, np.cumsum([len(of_file) for of_file in hashes])[:-1])


def write_shards(
    inputs: Mapping[Path, np.ndarray], folder: Path, plan: ShardingPlan, pool: Workers
) -> tuple[dict[str, dict[str, int]], dict[str, int]]:
    """Write documents (one per line) as shards into the empty `folder`.

    Returns each one's documents and sentences, and FACTS of all together, but for the documents left out before.

    `inputs` are the files, and which of their lines to take, (lines,) bool; see `first_of_their_kind`. Raises UserError
    where one is not UTF-8 text, or a shard would get fewer than two documents.
    """
    n_documents = int(sum(taken.sum() for taken in inputs.values()))
    kinds = {"training": plan.training_names, "test": plan.test_names}
    shards = {kind: [_Shard(folder / f"{name}.txt") for name in kinds[kind]] for kind in kinds}
    heaps = {kind: [(0, index, shard) for index, shard in enumerate(shards[kind])] for kind in kinds}
    totals = dict.fromkeys(kinds, 0)
    facts = dict.fromkeys(FACTS, 0)
    with tqdm(total=n_documents, unit="document", desc="sharding") as progress:
        for documents, n_surrogates in pool.map(_split_all, _batches(inputs), "sharding"):
            facts["lone_surrogates"] += n_surrogates
            facts["documents_without_a_sentence"] += documents.count([])
            facts["documents_of_one_sentence"] += sum(len(sentences) == 1 for sentences in documents)
            for sentences in filter(None, documents):
                # Before this document counts: if its length had a say, the test set would gather the short ones.
                kind = "test" if totals["test"] < plan.fraction_test_set * sum(totals.values()) else "training"
                n_sentences, index, shard = heaps[kind][0]
                heapq.heapreplace(heaps[kind], (n_sentences + len(sentences), index, shard))
                totals[kind] += len(sentences)
                shard.add(sentences)
            progress.update(len(documents))
    written = [*shards["training"], *shards["test"]]
    for shard in written:
        shard.flush()
        if shard.counts["documents"] < MIN_DOCUMENTS:
            raise UserError(
                f"The shard {shard.path.stem} would hold {shard.counts['documents']} of the {n_documents} different "
                f"documents and needs {MIN_DOCUMENTS}",
                f"with a test share of {plan.fraction_test_set}, ask for fewer shards of its kind",
            )
    return {shard.path.name: shard.counts for shard in written}, facts


class _Shard:
    """A text shard that is being written: opened now and then, since so many cannot be open at once."""

    def __init__(self, path: Path):
        self.path = path
        self.counts = {"documents": 0, "sentences": 0}
        self._held = bytearray()

    def add(self, sentences: list[str]) -> None:
        self._held += ("\n".join(sentences) + "\n\n").encode()
        self.counts["documents"] += 1
        self.counts["sentences"] += len(sentences)
        if len(self._held) > BUFFERED_BYTES:
            self.flush()

    def flush(self) -> None:
        with open(self.path, "ab") as file:
            file.write(self._held)
        self._held.clear()


def _split_all(documents: list[str]) -> tuple[list[list[str]], int]:
    """The sentences of each, and how many lone surrogates, which no UTF-8 file may hold, were taken out of all."""
    sound = [document.encode(errors="ignore").decode() for document in documents]
    return list(map(split_sentences, sound)), sum(map(len, documents)) - sum(map(len, sound))


def _batches(inputs: Mapping[Path, np.ndarray]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for path, taken in inputs.items():
        try:
            # Only "\n" ends a document, here as where they are counted; a stray "\r" must not end a sentence either.
            with open(path, encoding="utf-8", errors="surrogatepass", newline="\n") as lines:
                for line in itertools.compress(lines, taken):
                    batch.append(line.replace("\r", " "))
                    size += len(line)
                    if size >= BATCH_CHARACTERS:
                        yield batch
                        batch, size = [], 0
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not UTF-8 text ({error})", "convert it, or format the corpus again") from error
    if batch:
        yield batch
