"""The made corpus has the size and the shape that was asked for; the benchmark on it runs and prints its table."""

import json
from collections import Counter

import pytest
from corpora import write_vocab
from paths import AS_USERS

from benchmark import data_scale
from benchmark.workloads.made_corpus import KINDS, documents, write_dump, write_formatted, write_kinds
from common.workers import workers
from data.corpus.documents import LINES, FormatOptions
from data.corpus.extraction import extract_wikipedia
from data.corpus.formatting import write_documents
from data.sources.text import Source


def test_made_text():
    made = list(documents(300_000, seed=1))
    n_bytes = sum(len(sentence) + 1 for document in made for sentence in document)
    assert 300_000 <= n_bytes < 320_000
    assert all(sentence[0].isupper() and sentence[-1] == "." for document in made for sentence in document)
    counts = Counter(word for document in made for sentence in document for word in sentence.lower()[:-1].split())
    frequencies = sorted(counts.values(), reverse=True)
    assert 10 < frequencies[0] / frequencies[50] < 30  # Zipf, shifted by 3: 53/3
    assert frequencies[-1] == 1
    assert list(documents(300_000, seed=1)) == made
    assert list(documents(300_000, seed=2)) != made


def test_a_document_is_a_line(tmp_path):
    write_formatted(tmp_path / "formatted", 50_000)
    formatted = (tmp_path / "formatted").read_text(encoding="utf-8").splitlines()
    assert formatted == [" ".join(document) for document in documents(50_000)]


def test_the_dump_holds_the_text_that_was_asked_for(tmp_path):
    write_dump(tmp_path / "dump.xml", 50_000, 7)
    (tmp_path / "extracted").mkdir()
    with workers(1) as pool:
        counts, _ = extract_wikipedia(tmp_path / "dump.xml", tmp_path / "extracted", pool)
    made = list(documents(50_000))
    assert sum(counts.values()) == len(made)
    articles = [
        json.loads(line)["text"] for line in (tmp_path / "extracted" / "AA" / "wiki_00").read_text().splitlines()
    ]
    for document, article in zip(made, articles, strict=True):
        assert article.startswith("some of the any " * 40)  # its template
        assert all(sentence in article for sentence in document)


def test_all_kinds_of_files_hold_the_same_documents(tmp_path):
    made = [" ".join(each) for each in documents(60_000)]
    assert write_kinds(tmp_path, 60_000, 1) == len(made)
    formatted = set()
    for kind in KINDS:
        texts = tmp_path, sorted((tmp_path / kind).iterdir())
        with workers(1) as pool:
            write_documents(Source(), texts, tmp_path / "out", pool, FormatOptions(text_documents=LINES))
        formatted.add((tmp_path / "out").read_bytes())
    assert formatted == {"".join(f"{each}\n" for each in made).encode()}


STAGES = ["extraction", "sharding", "hdf5", "txt", "jsonl.zst"]


def table_row(line):
    return [cell.strip() for cell in line.split("|")[1:-1]]


@pytest.mark.slow
def test_prints_its_table(tmp_path, capsys, monkeypatch):
    arguments = ["--vocab_file", str(write_vocab(tmp_path / "vocab.txt")), "--scale_mb", "0.1", "--n_shards", "2"]
    arguments += ["--stages", *STAGES]
    (tmp_path / "scratch").mkdir()
    monkeypatch.syspath_prepend(AS_USERS)
    monkeypatch.setattr("sys.argv", ["data_scale.py", *arguments, "--folder", str(tmp_path / "scratch")])
    data_scale.main()
    printed = capsys.readouterr()
    stages, by_kind = printed.out.split("\n\n")
    _, _, *rows = (table_row(line) for line in stages.splitlines()[1:])
    assert [name for name, *_ in rows] == STAGES
    _, _, *kinds = map(table_row, by_kind.splitlines())
    assert [name for name, *_ in kinds] == ["txt", "jsonl.zst"]
    assert kinds[0][-1] == "1.00"
    assert [line.split() for line in printed.err.splitlines()] == rows
    for _, *numbers in rows:
        several, one, ratio, main, worker = map(float, numbers)
        # Both are rounded to hundredths of a second.
        assert (one - 0.005) / (several + 0.005) - 0.01 < ratio < (one + 0.005) / max(several - 0.005, 1e-9) + 0.01
        assert 20 < worker <= main < 1024
    assert not list((tmp_path / "scratch").iterdir())
