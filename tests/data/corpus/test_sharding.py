"""Documents to shards: disjoint, complete, balanced, the same for any number of processes, whole or not at all."""

import random

import numpy as np
import pytest
from corpora import tree
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

import data.corpus.sharding
from common.errors import UserError
from common.workers import workers
from data.artifacts.manifest import FileRecord
from data.corpus.sharding import ShardingPlan, first_of_their_kind, survey, write_shards

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")


def plan_of(n_training, n_test, fraction):
    return ShardingPlan(
        [f"x_training_{i}" for i in range(n_training)], [f"x_test_{i}" for i in range(n_test)], fraction
    )


def make_shards(inputs, folder, plan, n_processes=1):
    """Shards of `inputs` in a new folder; returns their records."""
    taken = first_of_their_kind([survey(path)[1] for path in inputs])
    folder.mkdir()
    with workers(n_processes) as pool:
        return write_shards(dict(zip(inputs, taken, strict=True)), folder, plan, pool)[0]


def write_documents(path, sizes):
    """A document of each number of sentences; every sentence tells its document and its place."""
    lines = (" ".join(f"Document {d} has sentence {s} here." for s in range(size)) for d, size in enumerate(sizes))
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def read_shards(folder):
    """Shard name -> its documents, as lists of (document, sentence)."""
    shards = {}
    for file in folder.glob("*.txt"):
        text = file.read_text(encoding="utf-8")
        assert text.endswith(".\n\n")
        documents = [document.split("\n") for document in text[:-2].split("\n\n")]
        shards[file.stem] = [
            [(int(line.split()[1]), int(line.split()[4])) for line in document] for document in documents
        ]
    return shards


sizes_strategy = st.lists(st.integers(1, 12), min_size=8, max_size=50)


@settings(max_examples=60, deadline=None)
@given(sizes_strategy, st.integers(1, 4), st.integers(0, 3), st.floats(0.05, 0.6))
@example([12] + [1] * 30, 3, 0, 0.1)
def test_every_document_once_whole_and_balanced(tmp_path_factory, sizes, n_training, n_test, fraction):
    folder = tmp_path_factory.mktemp("sharding")
    fraction = fraction if n_test else 0.0
    plan = plan_of(n_training, n_test, fraction)
    try:
        records = make_shards([write_documents(folder / "in.txt", sizes)], folder / "out", plan)
    except UserError:  # a shard of one document; see test_failure_leaves_the_earlier_output
        assume(False)
    shards = read_shards(folder / "out")
    assert set(shards) == {*plan.training_names, *plan.test_names}

    documents = [document for shard in shards.values() for document in shard]
    assert sorted(documents) == [[(d, s) for s in range(size)] for d, size in enumerate(sizes)]
    for shard in shards.values():
        assert shard == sorted(shard)  # in the order of the input
        assert len(shard) >= 2  # or it could not be paired
    n_sentences = {name: sum(map(len, shard)) for name, shard in shards.items()}
    for names in (plan.training_names, plan.test_names):
        counts = [n_sentences[name] for name in names]
        assert not counts or max(counts) - min(counts) <= max(sizes)
    n_in_test = sum(n_sentences[name] for name in plan.test_names)
    # Both sets follow the share to within the document that was given to them last.
    assert abs(n_in_test - fraction * sum(sizes)) <= max(sizes)

    assert records == {
        f"{name}.txt": {"documents": len(shard), "sentences": n_sentences[name]} for name, shard in shards.items()
    }


def test_output_does_not_depend_on_the_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(data.corpus.sharding, "BATCH_CHARACTERS", 1000)  # some sixty tasks
    monkeypatch.setattr(data.corpus.sharding, "BUFFERED_BYTES", 500)  # every shard is added to many times
    rng = random.Random(0)
    inputs = [write_documents(tmp_path / f"{name}.txt", [rng.randint(1, 30) for _ in range(60)]) for name in "ab"]
    for n_processes in (1, 2, 3):
        make_shards(inputs, tmp_path / str(n_processes), plan_of(5, 3, 0.25), n_processes)
    one, two, three = (tree(tmp_path / str(n)) for n in (1, 2, 3))
    assert len(one) == 8
    assert one == two == three
    with_large_buffers = tmp_path / "large"
    monkeypatch.undo()
    make_shards(inputs, with_large_buffers, plan_of(5, 3, 0.25))
    assert tree(with_large_buffers) == one


def test_test_documents_are_not_the_short_ones(tmp_path, monkeypatch):
    """Mean lengths of the two sets differ by less than 4.5 standard errors; and the test set is all over the corpus."""
    monkeypatch.setattr(data.corpus.sharding, "split_sentences", lambda document: document.strip().split("|"))
    rng = random.Random(1)
    sizes = [1 + int(rng.lognormvariate(2, 1)) for _ in range(4000)]
    lines = ("|".join(f"Document {d} has sentence {s} ." for s in range(size)) for d, size in enumerate(sizes))
    (tmp_path / "in.txt").write_text("\n".join(lines), encoding="utf-8")
    make_shards([tmp_path / "in.txt"], tmp_path / "out", plan_of(4, 2, 0.2))
    shards = read_shards(tmp_path / "out")
    test = [doc for name, shard in shards.items() if "test" in name for doc in shard]
    training = [doc for name, shard in shards.items() if "training" in name for doc in shard]
    a, b = np.array([len(doc) for doc in test]), np.array([len(doc) for doc in training])
    assert abs(a.mean() - b.mean()) < 4.5 * np.sqrt(a.var() / len(a) + b.var() / len(b))
    places = np.array([doc[0][0] for doc in test]) / len(sizes)
    assert abs(places.mean() - 0.5) < 4.5 * np.sqrt(1 / 12 / len(places))


def test_empty_lines_and_documents_without_a_sentence_count_for_nothing(tmp_path):
    (tmp_path / "in.txt").write_text("\n One. Two.\n\n \t\nThree. Four.", encoding="utf-8")
    records = make_shards([tmp_path / "in.txt"], tmp_path / "out", plan_of(1, 0, 0.0))
    assert (tmp_path / "out" / "x_training_0.txt").read_text(encoding="utf-8") == "One.\nTwo.\n\nThree.\nFour.\n\n"
    assert records["x_training_0.txt"] == {"documents": 2, "sentences": 4}


def test_what_is_left_out_is_counted(tmp_path):
    text = "One. Two.\n\u3000\u3000\nJust one.\nTh\ud800ree\udfff.\ud8ff Four.\n\u2003\n\ud801\n"
    (tmp_path / "in.txt").write_bytes(text.encode("utf-8", "surrogatepass"))
    taken = dict.fromkeys([tmp_path / "in.txt"], np.ones(6, dtype=bool))
    with workers(1) as pool:
        _, facts = write_shards(taken, tmp_path, plan_of(1, 0, 0.0), pool)
    assert (tmp_path / "x_training_0.txt").read_text("utf-8") == "One.\nTwo.\n\nJust one.\n\nThree.\nFour.\n\n"
    assert facts == {
        "repeated_documents": 0,  # they are found before
        "documents_without_a_sentence": 3,
        "documents_of_one_sentence": 1,
        "lone_surrogates": 4,
    }


def test_carriage_returns_end_neither_sentences_nor_documents(tmp_path):
    (tmp_path / "in.txt").write_bytes(b"One is\rhere.\r\rTwo.\r\nThree.\r\n")
    make_shards([tmp_path / "in.txt"], tmp_path / "out", plan_of(1, 0, 0.0))
    assert (tmp_path / "out" / "x_training_0.txt").read_bytes() == b"One is here.\nTwo.\n\nThree.\n\n"


def failing_inputs(folder):
    few = write_documents(folder / "few.txt", [3] * 5)
    # All but the first document are in the test set's only turn: it is far behind its share after a long one.
    lopsided = write_documents(folder / "lopsided.txt", [60, 1, 1, 1, 1, 1, 1, 1])
    latin = folder / "latin.txt"
    latin.write_bytes(b"".join(b"One. Two %d.\n" % number for number in range(8)) + b"caf\xe9.\n")
    return {
        "few": (
            few,
            r"shard x_training_1 would hold 1 of the 5 different documents .* ask for fewer",
        ),
        "lopsided": (lopsided, r"shard x_training_\d would hold . of the 8 different documents and needs 2"),
        "latin": (latin, "latin.txt is not UTF-8 text"),
        "missing": (folder / "missing.txt", "no formatted text .*missing.txt.*text_formatting"),
    }


@pytest.mark.parametrize("case", ["few", "lopsided", "latin", "missing"])
def test_what_cannot_be_sharded(tmp_path, case):
    path, message = failing_inputs(tmp_path)[case]
    with pytest.raises(UserError, match=message):
        make_shards([path], tmp_path / "out", plan_of(2, 2, 0.5))


def test_survey(tmp_path, monkeypatch):
    path = write_documents(tmp_path / "in.txt", [3, 1, 2])
    path.write_bytes(path.read_bytes() + b"\n \n")
    record, hashes = survey(path)
    assert record == FileRecord.of(path, documents=3)
    assert np.flatnonzero(hashes).tolist() == [0, 1, 2]
    assert len(hashes) == 5
    monkeypatch.setattr(data.corpus.sharding, "MAX_DOCUMENT_BYTES", 50)
    with pytest.raises(UserError, match=r"Document 1 of .*in.txt has more than 50 bytes.*one document per line"):
        survey(path)


@given(st.lists(st.lists(st.sampled_from(["a", "b ", " b", "c", "", "  "]), max_size=6), min_size=1, max_size=3))
def test_what_an_earlier_line_says_is_left_out(tmp_path_factory, files):
    folder = tmp_path_factory.mktemp("repeated")
    hashes, expected, seen = [], [], set()
    for number, lines in enumerate(files):
        (folder / str(number)).write_text("".join(line + "\n" for line in lines))
        hashes.append(survey(folder / str(number))[1])
        expected.append([])
        for line in lines:
            expected[-1].append(bool(line.strip()) and line.strip() not in seen)
            seen.add(line.strip())
    assert [taken.tolist() for taken in first_of_their_kind(hashes)] == expected


def test_copies_are_in_no_shard(tmp_path):
    path = write_documents(tmp_path / "in.txt", [3, 1, 2, 4, 5, 2])
    path.write_bytes(path.read_bytes() * 3)
    records = make_shards([path], tmp_path / "out", plan_of(2, 0, 0))
    assert sum(counts["documents"] for counts in records.values()) == 6
    documents = [document for shard in read_shards(tmp_path / "out").values() for document in shard]
    assert sorted(len(document) for document in documents) == [1, 2, 2, 3, 4, 5]
