"""Corpora of text, alone and mixed, from this machine and from servers; and what names none."""

import gzip
import json
import os
from html import unescape

import pytest
from corpora import SAMPLE, tree
from http_servers import serve
from text_corpora import (
    LINES_OF_TEXTS,
    PROSE,
    TEXTS,
    download_text,
    format_all,
    json_lines,
    lines_of,
    manifest_of,
    parquet,
    write,
)

from common.errors import UserError
from common.workers import workers
from data.artifacts.layout import Layout
from data.artifacts.stage_output import Preparation
from data.corpus import document_files, formatting
from data.corpus.documents import FormatOptions
from data.corpus.extraction import extract_wikipedia, extracted_files
from data.corpus.sentences import split_sentences
from data.downloaders.datasets import download_problems
from data.downloaders.folder import DownloadOptions
from data.sources import text, wikipedia
from data.stages import format_text

pytestmark = pytest.mark.usefixtures("no_waiting")


@pytest.fixture
def layout(tmp_path):
    return Layout(tmp_path / "work", "text")


def test_parquet_json_lines_and_the_dump_give_the_same_sentences(layout, tmp_path):
    extracted = tmp_path / "extracted"
    extracted.mkdir()
    with workers(1) as pool:
        extract_wikipedia(SAMPLE / "wikicorpus_sample.xml.bz2", extracted, pool)
        files = extracted_files(extracted)
        formatting.write_documents(wikipedia.Source(), (extracted, files), tmp_path / "dump.txt", pool)
    # Who publishes text has resolved the entities.
    articles = [unescape(json.loads(line)["text"]) for file in files for line in file.read_text("utf-8").splitlines()]
    sentences = list(map(split_sentences, (tmp_path / "dump.txt").read_text("utf-8").splitlines()))
    assert len(sentences) == 60
    for name, content in {"a.parquet": parquet(articles, row_group_size=7), "a.jsonl": json_lines(articles)}.items():
        download_text(layout, write(tmp_path / name, {name: content}) / name, overwrite=True)
        with workers(1) as pool:
            format_text(Preparation(layout, pool, overwrite=True), FormatOptions())
        assert list(map(split_sentences, lines_of(layout))) == sentences


@pytest.mark.parametrize("n_processes", [1, 2, 3])
def test_the_bytes_do_not_depend_on_workers_and_parts(layout, tmp_path, monkeypatch, n_processes):
    texts = [f"{PROSE} This is the one of number {number}, and {'x' * (number % 13)}." for number in range(40)]
    files = {"a.jsonl": json_lines(texts[:20]), "b.parquet": parquet(texts[20:30], row_group_size=3)}
    files["c.jsonl.gz"] = gzip.compress(json_lines(texts[30:]))
    monkeypatch.setattr(document_files, "BYTES_PER_PART", 200)
    monkeypatch.setattr(formatting, "HELD_BYTES", 150)  # most parts go by way of files
    download_text(layout, write(tmp_path / "corpus", files))
    format_all(layout, n_processes)
    assert lines_of(layout) == texts
    assert sorted(tree(layout.formatted)) == ["text.manifest.json", "text_one_document_per_line.txt"]


def test_headings_stay_where_all_lines_are_asked_for(layout, tmp_path):
    download_text(layout, write(tmp_path / "corpus", {"a.jsonl": json_lines(TEXTS)}))
    format_all(layout, min_words=0)
    assert lines_of(layout) == [" ".join(each.split()) for each in TEXTS]


def test_several_corpora_are_named_and_counted_apart(layout, tmp_path):
    wiki = write(tmp_path / "20231101.en", {"b.parquet": parquet(TEXTS), "README.md": b"x", ".cache/a.parquet": b"x"})
    write(tmp_path / "more", {"x.jsonl": json_lines(TEXTS[:1]), "y.jsonl": json_lines(TEXTS[1:2]), "z.txt": b"Z."})
    line = download_text(layout, wiki, f"c4={tmp_path}/more/*.jsonl", f"notes={tmp_path}/more/z.txt")
    assert "1 of other kinds (README.md)" in line
    assert "hidden or made by an operating system (.cache)" in line
    names = ["20231101.en/b.parquet", "c4/x.jsonl", "c4/y.jsonl", "manifest.json", "notes/z.txt"]
    assert sorted(tree(layout.download)) == names
    line = format_all(layout)
    assert lines_of(layout) == [*LINES_OF_TEXTS, *LINES_OF_TEXTS[:2], "Z."]
    corpora = manifest_of(layout).facts["corpora"]
    assert {name: counts["documents"] for name, counts in corpora.items()} == {"20231101.en": 3, "c4": 2, "notes": 1}
    n_words = [sum(len(each.split()) for each in some) for some in (LINES_OF_TEXTS, LINES_OF_TEXTS[:2], ["Z."])]
    assert [counts["words"] for counts in corpora.values()] == n_words
    assert f"(20231101.en 3 of {n_words[0]} words, c4 2 of {n_words[1]} words, notes 1 of 1 words)" in line
    assert "pyarrow" in manifest_of(layout).versions


def test_a_path_with_an_equals_sign_is_a_path(layout, tmp_path, monkeypatch):
    monkeypatch.chdir(write(tmp_path, {"lang=en/a b.jsonl": json_lines(TEXTS)}))
    download_text(layout, "lang=en")
    assert sorted(tree(layout.download)) == ["lang=en/a b.jsonl", "manifest.json"]


def test_all_bad_files_and_words_are_told_at_once(layout, tmp_path):
    folder = write(tmp_path / "corpus", {f"{number}.parquet": b"" for number in range(14)})
    with pytest.raises(UserError) as raised:
        download_text(layout, folder, tmp_path / "none", "c4=*.none")
    assert len(raised.value.sentences) == text.PROBLEMS_SHOWN + 1
    assert "/none has no documents: there is nothing of this name; give folders of files" in raised.value.sentences[0]
    assert raised.value.sentences[-1] == "The files of --source have 6 more problems."


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "The text needs --source; give folders of files, files"),
        (
            ["empty"],
            "--source empty has no documents: no file of it is wanted; left out: 1 of other kinds (a.md); give",
        ),
        (["empty/a.md"], "--source empty/a.md has no documents: it is of other kinds"),
        ([".h.jsonl"], "--source .h.jsonl has no documents: it is hidden"),
        (["pipe.jsonl"], "--source pipe.jsonl has no documents: it is a pipe, a socket or a device"),
        (["https://a.b/c.html"], "--source https://a.b/c.html has no documents: it is of other kinds"),
        (["a/en", "b/en"], "a/en/x.txt and b/en/x.txt of --source would both be en/x.txt; name their corpora"),
    ],
)
def test_words_that_name_nothing(tmp_path, monkeypatch, words, sentence):
    files = dict.fromkeys(("empty/a.md", ".h.jsonl", "a/en/x.txt", "b/en/x.txt"), b"x")
    monkeypatch.chdir(write(tmp_path, files))
    os.mkfifo("pipe.jsonl")
    source, *more = words or [None]
    (problem,) = download_problems("text", DownloadOptions(source, more))
    assert str(problem).startswith(sentence)


def test_one_source_takes_one_word():
    for dataset in ("wikicorpus_en", "squad"):
        problems = download_problems(dataset, DownloadOptions("latest", ["20260101"]))
        assert f"--source latest 20260101 are several, and {dataset} has one source" in str(next(iter(problems)))


def test_a_share_is_of_each_corpus(layout, tmp_path):
    write(tmp_path, {"large/a.jsonl": json_lines(TEXTS[:1] * 100), "small/b.jsonl": json_lines([PROSE]) + b"{}\n"})
    download_text(layout, tmp_path / "large", tmp_path / "small")
    with pytest.raises(UserError, match=r"1 of 2 documents of small in .* cannot be used"):
        format_all(layout)


def test_addresses_and_files_of_them(layout, tmp_path):
    files = {f"data/en/{number}.parquet": parquet([f"{PROSE} {number}."]) for number in range(4)}
    with serve(files, break_after=400) as server:
        addresses = [f"{server.url}/{name}?signature=SECRET" for name in files]
        (tmp_path / "list.txt").write_text("# mine\n" + "\n".join(addresses[2:]), encoding="utf-8")
        download_text(layout, *addresses[:2], f"more={tmp_path / 'list.txt'}")
    format_all(layout)
    assert lines_of(layout) == [f"{PROSE} {number}." for number in range(4)]
    assert list(manifest_of(layout).facts["corpora"]) == ["en", "more"]
    assert not any(b"SECRET" in content for content in tree(layout.working_dir).values())
    assert "downloaded before" in download_text(layout, *addresses[:2], f"more={tmp_path / 'list.txt'}")


def test_another_column_costs_no_second_download_and_damage_does(layout):
    whole = parquet(TEXTS, column="content")
    with serve({"en/a.parquet": whole[:-9], "en/b.parquet": whole}) as server:
        sources = [f"{server.url}/en/{name}.parquet" for name in "ab"]
        with pytest.raises(UserError, match=r"is no whole Parquet file .*the download was removed, so start again"):
            download_text(layout, *sources)
        server.files = {"en/a.parquet": whole, "en/b.parquet": whole}
        with pytest.raises(UserError, match=r"a\.parquet has no column 'text'") as raised:
            download_text(layout, *sources)
        assert len(raised.value.sentences) == 1
        server.requests.clear()
        download_text(layout, *sources, text_column="content")
        assert [request.path for request in server.requests] == ["en/b.parquet"]
    format_all(layout, text_column="content")
    assert lines_of(layout) == LINES_OF_TEXTS * 2


def test_only_the_first_of_many_addresses_is_downloaded_where_it_is_wrong(layout):
    with serve({f"en/{number}.jsonl": json_lines(TEXTS, "content") for number in range(5)}) as server:
        with pytest.raises(UserError, match="no key 'text'"):
            download_text(layout, *(f"{server.url}/en/{number}.jsonl" for number in range(5)))
        assert {request.path for request in server.requests} == {"en/0.jsonl"}


def test_what_was_formatted_is_skipped_and_kept(layout, tmp_path):
    download_text(layout, write(tmp_path / "corpus", {"a.parquet": parquet(TEXTS)}))
    format_all(layout)
    before = tree(layout.working_dir)
    assert "was finished before" in format_all(layout)
    with pytest.raises(UserError, match="made with min_words 8 where 3 is asked for; add --overwrite"):
        format_all(layout, min_words=3)
    assert tree(layout.working_dir) == before
