"""Each stage holds its input against what the stage before wrote down, so that no damage ends as verified shards."""

import pytest
from corpora import SAMPLE, write_vocab

from common.errors import UserError
from data.artifacts.layout import Layout
from data.bertPrep import main
from data.document_sources import formatted_texts

SHARDS = ["--n_training_shards", "3", "--n_test_shards", "2", "--fraction_test_set", "0.3"]


@pytest.fixture
def layout(tmp_path, monkeypatch):
    monkeypatch.setenv("BERT_PREP_WORKING_DIR", str(tmp_path / "work"))
    write_vocab(tmp_path / "vocab.txt")
    return Layout(tmp_path / "work", "wikicorpus_en")


def prepare(action, *more, dataset="wikicorpus_en"):
    main(["--action", action, "--dataset", dataset, "--n_processes", "1", *map(str, more)])


def create_hdf5(layout, *more, **dataset):
    vocab = layout.working_dir.parent / "vocab.txt"
    prepare("create_hdf5_files", *SHARDS, "--vocab_file", vocab, "--max_seq_length", 128, *more, **dataset)


def as_far_as(*stages):
    for stage in stages:
        more = {"download": ["--source", SAMPLE / "wikicorpus_sample.xml.bz2"], "sharding": SHARDS}.get(stage, [])
        prepare(stage, *more)


def test_a_dump_that_changed(layout):
    as_far_as("download")
    dump = layout.download / "wikicorpus_en.xml.bz2"
    whole = dump.read_bytes()
    dump.unlink()  # it is a link to the sample
    dump.write_bytes(whole + whole)
    with pytest.raises(UserError, match=r"has changed since.*--action download --dataset wikicorpus_en again"):
        prepare("text_formatting")


def test_extracted_articles_that_changed(layout):
    as_far_as("download", "text_formatting")
    (extracted,) = layout.extracted.rglob("wiki_*")
    extracted.write_bytes(b"".join(extracted.read_bytes().splitlines(keepends=True)[:9]))
    with pytest.raises(UserError, match=r"wiki_00 has changed since.*--action text_formatting"):
        prepare("text_formatting", "--skip_wikiextractor")
    (extracted.parent / "wiki_01").write_bytes(extracted.read_bytes())
    with pytest.raises(UserError, match=r"wiki_0\d (has changed since|is not in)"):
        prepare("text_formatting", "--skip_wikiextractor")


def test_formatted_text_that_changed(layout):
    as_far_as("download", "text_formatting")
    (formatted,) = formatted_texts(layout).values()
    formatted.write_bytes(formatted.read_bytes()[:50_000])
    with pytest.raises(UserError, match=r"one_article_per_line.txt has changed since.*--action text_formatting"):
        prepare("sharding", *SHARDS)
    prepare("text_formatting")  # makes it anew
    prepare("sharding", *SHARDS)


def test_text_shards_made_anew_after_the_hdf5_files(layout):
    as_far_as("download", "text_formatting", "sharding")
    create_hdf5(layout)
    prepare("verify")
    (formatted,) = formatted_texts(layout).values()
    own = layout.working_dir.parent / "own.txt"
    own.write_bytes(b"".join(formatted.read_bytes().splitlines(keepends=True)[:40]))
    prepare("sharding", *SHARDS, "--input_files", own, "--overwrite")
    with pytest.raises(UserError, match=r"fails the check 'made from these text shards'.*was made anew since"):
        prepare("verify")


def test_a_collection_with_copies_passes(layout, capsys):
    books = layout.working_dir.parent / "books"
    books.mkdir()
    for number in range(30):
        sentences = (f"Book {number % 20} says a thing in sentence {i} that no other book says." for i in range(20))
        (books / f"{number:02d}.txt").write_text(" ".join(sentences), encoding="utf-8")
    prepare("download", "--source", books, dataset="bookscorpus")
    prepare("text_formatting", dataset="bookscorpus")
    prepare("sharding", *SHARDS, dataset="bookscorpus")
    assert "20 documents" in (said := capsys.readouterr().out)
    assert "10 documents that repeat an earlier one were left out" in said
    create_hdf5(layout, dataset="bookscorpus")
    prepare("verify", dataset="bookscorpus")


def test_one_folder_that_cannot_be_verified_hides_no_other(layout, capsys):
    as_far_as("download", "text_formatting", "sharding")
    create_hdf5(layout)
    empty = layout.working_dir / "hdf5_a" / "wikicorpus_en"
    empty.mkdir(parents=True)
    with pytest.raises(UserError, match=r"There are no shards .* in .*hdf5_a"):
        prepare("verify")
    assert capsys.readouterr().out.count("size and hash") == 2  # in the reports of the text and of the HDF5 shards
