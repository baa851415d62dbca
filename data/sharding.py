"""Documents to training and test shards: one sentence per line, an empty line after each document.

One pass, in memory that does not grow with the corpus. Each document goes whole to one shard: to the test set whenever
that has fallen behind its share of the sentences, and there, or in the training set, to the shard with the fewest. So
the test set is spread over the whole corpus, no document is in two shards, and shards differ in sentences by one
document at most. Splitting into sentences is the slow part and runs in parallel; the order of the documents decides
alone.
"""

import dataclasses
import heapq
import json
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from data.parallel import map_in_processes
from data.sentences import split_sentences, splitter_name
from errors import UserError

BATCH_CHARACTERS = 2**18  # text per task: large beside the cost of handing it over, small beside memory
BUFFERED_CHARACTERS = 2**18  # text per shard that is held back, so that 512 shards need not be open at once
RECORD = "sharding.json"
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


def write_shards(inputs: Sequence[Path], output: Path, plan: ShardingPlan, n_processes: int) -> dict:
    """Write the documents of `inputs` (one per line) as shards into `output`, a folder that appears when all are whole.

    Returns:
        the record that lies beside the shards as sharding.json: numbers of documents and sentences, in all and per
        shard, and which sentence splitter was used.

    Raises:
        UserError: an input is missing or not UTF-8 text, or a shard would get fewer than two documents.
    """
    n_documents = sum(map(_count_documents, inputs))
    n_shards = len(plan.training_names) + len(plan.test_names)
    if n_documents < MIN_DOCUMENTS * n_shards:
        raise UserError(
            f"{' and '.join(map(str, inputs))} hold {n_documents} documents, and the {n_shards} shards asked for need "
            f"{MIN_DOCUMENTS} each; lower --n_training_shards and --n_test_shards."
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as scratch:
        folder = Path(scratch) / output.name
        folder.mkdir()
        counts = _distribute(inputs, folder, plan, n_processes, n_documents)
        for name in (*plan.training_names, *plan.test_names):
            n_in_shard = counts.get(name, (0, 0))[0]
            if n_in_shard < MIN_DOCUMENTS:
                raise UserError(
                    f"The shard {name} would hold {n_in_shard} of the {n_documents} documents and needs "
                    f"{MIN_DOCUMENTS}; with a test share of {plan.fraction_test_set}, make fewer shards of its kind."
                )
        record = {
            "inputs": [path.name for path in inputs],
            "sentence_splitter": splitter_name(),
            "fraction_test_set": plan.fraction_test_set,
            "documents": sum(documents for documents, _ in counts.values()),
            "sentences": sum(sentences for _, sentences in counts.values()),
            "shards": {name: {"documents": d, "sentences": s} for name, (d, s) in sorted(counts.items())},
        }
        (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        _replace_folder(folder, output)
    return record


def _count_documents(path: Path) -> int:
    if not path.is_file():
        raise UserError(f"There is no formatted text {path}; make it with --action text_formatting.")
    with open(path, "rb") as file:
        return sum(1 for line in file if line.strip())


def _distribute(
    inputs: Sequence[Path], folder: Path, plan: ShardingPlan, n_processes: int, n_documents: int
) -> dict[str, tuple[int, int]]:
    """Documents and sentences per shard."""
    assigner = _Assigner(plan)
    counts: dict[str, tuple[int, int]] = {}
    buffers: dict[str, list[str]] = defaultdict(list)
    sizes: dict[str, int] = defaultdict(int)

    def flush(name: str) -> None:
        with open(folder / f"{name}.txt", "a", encoding="utf-8") as file:
            file.writelines(buffers.pop(name))
        sizes[name] = 0

    with tqdm(total=n_documents, unit="document", desc="sharding") as progress:
        for documents in map_in_processes(_split_all, _batches(inputs), n_processes, "sharding"):
            for sentences in filter(None, documents):
                name = assigner.shard_for(len(sentences))
                text = "\n".join(sentences) + "\n\n"
                buffers[name].append(text)
                sizes[name] += len(text)
                n_earlier, s_earlier = counts.get(name, (0, 0))
                counts[name] = (n_earlier + 1, s_earlier + len(sentences))
                if sizes[name] > BUFFERED_CHARACTERS:
                    flush(name)
            progress.update(len(documents))
    for name in list(buffers):
        flush(name)
    return counts


def _split_all(documents: list[str]) -> list[list[str]]:
    return [split_sentences(document) for document in documents]


def _batches(inputs: Sequence[Path]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for path in inputs:
        for line in filter(str.strip, _lines(path)):
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
        raise UserError(f"{path} is not UTF-8 text ({error}); convert it, or format the corpus again.") from error


def _replace_folder(new: Path, target: Path) -> None:
    """Put `new` in the place of `target`; the old one goes only after it has been moved aside."""
    if target.exists():
        old = new.parent / f"{target.name}.old"
        target.rename(old)
        new.rename(target)
        shutil.rmtree(old)
    else:
        new.rename(target)
