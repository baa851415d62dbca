"""Parquet, JSON lines and plain text: the same documents from all, and a sentence for what is bad."""

import gzip
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
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
    zstd,
)

from common.errors import UserError
from common.workers import workers
from data.artifacts.layout import Layout
from data.artifacts.stage_output import Preparation
from data.corpus import document_files, lines
from data.corpus.documents import LINES, FormatOptions, Part
from data.stages import format_text


@pytest.fixture
def layout(tmp_path):
    return Layout(tmp_path / "work", "text")


KINDS = {
    "a.parquet": parquet(TEXTS),
    "small groups.PARQUET": parquet(TEXTS, row_group_size=1, compression="zstd"),
    "large.parquet": parquet(TEXTS, pa.large_string()),
    "dictionary.parquet": parquet(TEXTS, pa.dictionary(pa.int32(), pa.string())),
    "view.parquet": parquet(TEXTS, pa.string_view()),
    "nulls.parquet": parquet([None, *TEXTS, None]),
    "a.jsonl": json_lines(TEXTS),
    "ends.jsonl": b"\xef\xbb\xbf\n" + json_lines([*TEXTS, None]).replace(b"\n", b"\r\n") + b"\n \n",
    "no end.jsonl": json_lines(TEXTS)[:-1],
    "a.jsonl.gz": gzip.compress(json_lines(TEXTS)),
    "members.json.gz": gzip.compress(json_lines(TEXTS[:2])) + gzip.compress(json_lines(TEXTS[2:])),
    "a.jsonl.zst": zstd(json_lines(TEXTS)),
    "frames.json.zst": zstd(json_lines(TEXTS[:1])) + zstd(json_lines(TEXTS[1:])),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_gives_the_same_documents(layout, tmp_path, name):
    download_text(layout, write(tmp_path / "corpus", {name: KINDS[name]}))
    line = format_all(layout)
    assert lines_of(layout) == LINES_OF_TEXTS
    assert line.startswith("3 documents with prose in ")
    counts = manifest_of(layout).facts["corpora"]["corpus"]
    assert (counts["documents"], counts["failed"]) == (3, 0)
    assert counts["words"] == sum(len(each.split()) for each in LINES_OF_TEXTS)
    assert counts["documents_without_prose"] == 1 + {"nulls.parquet": 2, "ends.jsonl": 1}.get(name, 0)


ANY_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)


@settings(max_examples=40)
@given(st.lists(ANY_TEXT, max_size=12), st.integers(1, 60))
def test_parts_of_json_lines_make_the_whole(tmp_path_factory, texts, n_bytes):
    file = tmp_path_factory.mktemp("parts") / "a.jsonl"
    file.write_text("".join(json.dumps({"text": each}, ensure_ascii=False) + "\n" for each in texts), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(document_files, "BYTES_PER_PART", n_bytes)
        reader = document_files.reader_of(file, FormatOptions(min_words=0))
        found = [each.line for start in reader.starts(file) for each in reader.documents(Part(file, start))]
    assert found == [" ".join(each.split()) for each in texts]


def test_plain_text_by_file_and_by_line(layout, tmp_path):
    content = b"\xef\xbb\xbfA short line.\r\n\nAnother,\rwith a break.\n"
    folder = write(tmp_path / "notes", {"deep/b.txt": content, "a.txt.gz": gzip.compress(b"First."), "c.txt": b""})
    download_text(layout, folder)
    format_all(layout)
    assert lines_of(layout) == ["First.", "A short line. Another, with a break."]
    with workers(1) as pool:
        format_text(Preparation(layout, pool, overwrite=True), FormatOptions(text_documents=LINES))
    assert lines_of(layout) == ["First.", "A short line.", "Another, with a break."]


def bad_utf8(*values):
    """Strings as no sound writer has them."""
    return pa.array(values, pa.binary()).view(pa.string())


BAD_FILES = {
    "empty.parquet": (b"", "is no whole Parquet file (Parquet file size is 0 bytes); replace it"),
    "cut.parquet": (parquet(TEXTS)[:-20], "cut.parquet is no whole Parquet file"),
    "text.parquet": (b"PAR1 is what I say, PAR1", "text.parquet is no whole Parquet file"),
    "other.parquet": (
        parquet(TEXTS, column="content"),
        "has no column 'text'; there are 'id', 'content'; give --text_c",
    ),
    "numbers.parquet": (parquet([1, 2]), "The column 'text' of"),
    "bytes.parquet": (parquet([b"a"]), "holds binary, not strings; give --text_column one of strings"),
    "struct.parquet": (parquet([{"a": "b"}]), "holds struct<a: string>, not strings"),
    "null.parquet": (parquet([None], pa.null()), "holds null, not strings"),
    "array.jsonl": (json.dumps([{"text": "a"}], indent=1).encode(), "is not JSON lines with text: line 1 is not JSON"),
    "list.jsonl": (b'[{"text": "a"}]', "line 1 is no JSON object; name the key with --text_column, or write one JSON"),
    "key.jsonl": (json_lines(TEXTS, "content"), "line 1 has no key 'text'; there are 'url', 'content'; name the key"),
    "numbers.jsonl": (b'{"text": 1}\n{"text": []}', "line 1 has a int as its 'text', not text"),
    "deep.jsonl": (b"[" * 100_000, "line 1 is not JSON (nested too deep)"),
    "latin.jsonl": ('{"text": "\xe9"}'.encode("latin-1"), "line 1 is not UTF-8"),
    "utf16.jsonl": (json_lines(["a"]).decode().encode("utf-16"), "line 1 is not UTF-8"),
    "empty.json.gz": (b"", "empty.json.gz is empty, and a compressed file never is; replace it"),
    "cut.json.gz": (gzip.compress(json_lines(TEXTS))[:-9], "cut.json.gz is damaged or cut short"),
    "cut.jsonl.zst": (zstd(json_lines(TEXTS))[:-1], "cut.jsonl.zst is damaged or cut short"),
    "plain.jsonl.zst": (json_lines(TEXTS), "plain.jsonl.zst is damaged or cut short"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_refused_in_one_sentence_before_anything_is_done(layout, tmp_path, name):
    content, words = BAD_FILES[name]
    folder = write(tmp_path / "corpus", {name: content, "good.jsonl": json_lines(TEXTS)})
    with pytest.raises(UserError) as raised:
        download_text(layout, folder)
    (sentence,) = raised.value.sentences
    assert words in sentence
    assert str(folder / name) in sentence
    assert not layout.working_dir.exists()


def test_bad_lines_are_counted_with_their_places_or_refused(layout, tmp_path, monkeypatch):
    all_lines = json_lines([f"{PROSE} Number {number} of them." for number in range(97)]).split(b"\n")[:-1]
    bad = {3: b'{"text": "half', 50: b"", 77: b'{"text": 5}', 99: b'{"text": "\xff"}'}
    for at, line in bad.items():
        all_lines.insert(at - 1, line)
    rows = pa.concat_arrays([pa.array([PROSE] * 8), bad_utf8(b"caf\xe9", PROSE.encode())])
    table = pa.table({"text": rows})
    folder = write(tmp_path / "corpus", {"a.jsonl": b"\n".join(all_lines), "b.txt": b"caf\xe9"})
    pq.write_table(table, folder / "c.parquet", row_group_size=4)
    monkeypatch.setattr(document_files, "BYTES_PER_PART", 500)
    download_text(layout, folder)
    with pytest.raises(UserError) as raised:
        format_all(layout, max_failed_share=0.04)
    *first, last = raised.value.sentences
    assert [sentence.partition(" (")[0] for sentence in first] == [
        "Line 3 of corpus/a.jsonl is not JSON",
        "Line 77 of corpus/a.jsonl has a int as its 'text', not text.",
        "Line 99 of corpus/a.jsonl is not UTF-8",
        "Corpus/b.txt is not UTF-8",
        "Row 9 of corpus/c.parquet is not UTF-8",
    ]
    assert (
        f"5 of 111 documents of corpus in {layout.download} cannot be used, more than --max_failed_share 0.04" in last
    )
    assert not list(layout.formatted.iterdir())
    line = format_all(layout, max_failed_share=0.05)
    assert "106 documents with prose" in line
    assert "5 cannot be used, the first: line 3 of corpus/a.jsonl is not JSON" in line
    manifest = manifest_of(layout)
    assert manifest.facts["corpora"]["corpus"]["failed"] == 5
    assert len(manifest.facts["failures"]) == 5
    assert str(tmp_path) not in layout.formatted_manifest.read_text("utf-8")


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst"])
def test_a_file_that_is_cut_behind_its_beginning_is_refused_when_it_is_read(layout, tmp_path, name):
    content = json_lines([f"{PROSE} {os.urandom(500).hex()}" for _ in range(1200)])
    packed = gzip.compress(content) if name.endswith("gz") else zstd(content)
    download_text(layout, write(tmp_path / "corpus", {name: packed[:-9], "good.jsonl": json_lines(TEXTS)}))
    with pytest.raises(UserError, match=rf"{name} is damaged or cut short .*; replace it"):
        format_all(layout, max_failed_share=1)
    assert not list(layout.formatted.iterdir())


def test_a_damaged_page_of_parquet_is_refused(layout, tmp_path):
    content = bytearray(parquet(TEXTS * 100, compression="none", use_dictionary=False, write_page_checksum=True))
    content[content.index(b"bridge")] ^= 1
    download_text(layout, write(tmp_path / "corpus", {"a.parquet": bytes(content)}))
    with pytest.raises(UserError, match=r"a\.parquet is no whole Parquet file .*CRC"):
        format_all(layout)


def test_a_line_without_an_end_fails_alone(layout, tmp_path, monkeypatch):
    for module in (document_files, lines):
        monkeypatch.setattr(module, "MAX_DOCUMENT_BYTES", 2000)
    long = json_lines([PROSE, PROSE * 100, PROSE])
    files = {
        "a.jsonl": long,
        "b.jsonl.gz": gzip.compress(long),
        "c.parquet": parquet([PROSE, PROSE * 100]),
        "d.txt": long,
    }
    download_text(layout, write(tmp_path / "corpus", files))
    format_all(layout, max_failed_share=0.5)
    assert lines_of(layout) == [PROSE] * 5
    reasons = manifest_of(layout).facts["failures"]
    places = ["line 2 of corpus/a.jsonl", "line 2 of corpus/b.jsonl.gz", "row 2 of corpus/c.parquet", "corpus/d.txt"]
    assert [each.partition(" has more than")[0] for each in reasons] == places


def test_parquet_is_read_by_one_thread_and_a_page_at_a_time(tmp_path):
    """Of a row group of 30 MB, no more than a few pages are in memory."""
    texts = [os.urandom(1500).hex() for _ in range(10_000)]
    file = write(tmp_path, {"a.parquet": parquet(texts, compression="none", use_dictionary=False)}) / "a.parquet"
    reader = document_files.reader_of(file, FormatOptions(min_words=0))
    assert list(reader.starts(file)) == [0]
    texts.clear()
    before, n_threads, most = pa.total_allocated_bytes(), len(os.listdir("/proc/self/task")), 0
    for _ in reader.documents(Part(file, 0)):
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < 10e6
    assert len(os.listdir("/proc/self/task")) == n_threads
