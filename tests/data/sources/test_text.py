"""Parquet, JSON lines and plain text, alone and mixed: the same sentences from all, and a sentence for what is bad."""

import gzip
import json
import os
from html import unescape

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpora import SAMPLE, tree
from http_servers import serve
from hypothesis import given, settings
from hypothesis import strategies as st

from common import remote_files
from common.errors import UserError
from common.workers import workers
from data.artifacts.layout import Layout
from data.artifacts.manifest import Manifest
from data.artifacts.stage_output import Preparation
from data.corpus import document_files, formatting, lines
from data.corpus.documents import LINES, FormatOptions, Part, prose
from data.corpus.extraction import extract_wikipedia, extracted_files
from data.corpus.sentences import split_sentences
from data.downloaders.datasets import download, download_problems
from data.downloaders.folder import DownloadOptions
from data.sources import text, wikipedia
from data.stages import format_text

PROSE = "The old bridge was built by the king of that time."
TEXTS = [
    f"{PROSE}\n\nHistory\n\nIt was the first of its kind, and for many years the only one.",
    f"{PROSE[:-1]} again.\n* a list of more than eight words that is no prose at all\r\n{PROSE}",
    "No prose",
    "Zwölf Brücken stehen über dem Fluss, und keine von ihnen ist so alt.\u2028Auch diese nicht.",
]
LINES_OF_TEXTS = [
    f"{PROSE} It was the first of its kind, and for many years the only one.",
    f"{PROSE[:-1]} again. {PROSE}",
    "Zwölf Brücken stehen über dem Fluss, und keine von ihnen ist so alt. Auch diese nicht.",
]


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(remote_files, "FIRST_WAIT", 0.0)
    monkeypatch.setattr(remote_files, "LONGEST_WAIT", 0.0)


@pytest.fixture
def layout(tmp_path):
    return Layout(tmp_path / "work", "text")


def parquet(texts, kind=None, column="text", **how):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"id": list(range(len(texts))), column: pa.array(texts, kind)}), sink, **how)
    return sink.getvalue().to_pybytes()


def json_lines(texts, key="text"):
    return "".join(json.dumps({"url": "x", key: each}) + "\n" for each in texts).encode()


def zstd(content):
    return pa.compress(content, codec="zstd", asbytes=True)


def write(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def get(layout, *sources, overwrite=False, **options):
    source, *more = map(str, sources)
    asked = DownloadOptions(source, more, **options)
    with workers(1) as pool:
        if problems := list(download_problems("text", asked)):
            raise UserError(problems)
        (line,) = download(Preparation(layout, pool, overwrite), asked)
    return line


def format_all(layout, n_processes=1, **options):
    with workers(n_processes) as pool:
        return format_text(Preparation(layout, pool), FormatOptions(**options))


def lines_of(layout):
    path = layout.formatted / "text_one_document_per_line.txt"
    return path.read_text(encoding="utf-8").split("\n")[:-1]


def manifest_of(layout):
    return Manifest.read(layout.formatted_manifest)


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
    get(layout, write(tmp_path / "corpus", {name: KINDS[name]}))
    line = format_all(layout)
    assert lines_of(layout) == LINES_OF_TEXTS
    assert line.startswith("3 documents with prose in ")
    counts = manifest_of(layout).facts["corpora"]["corpus"]
    assert (counts["documents"], counts["failed"]) == (3, 0)
    assert counts["words"] == sum(len(each.split()) for each in LINES_OF_TEXTS)
    assert counts["documents_without_prose"] == 1 + {"nulls.parquet": 2, "ends.jsonl": 1}.get(name, 0)


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
        get(layout, write(tmp_path / name, {name: content}) / name, overwrite=True)
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
    get(layout, write(tmp_path / "corpus", files))
    format_all(layout, n_processes)
    assert lines_of(layout) == texts
    assert sorted(tree(layout.formatted)) == ["text.manifest.json", "text_one_document_per_line.txt"]


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


@given(st.lists(st.sampled_from(["a b c", "", " ", "* a b c d", "a b c d", "a\t b\xa0c  d e", "{{ a b c d", "d" * 9])))
def test_prose_is_what_a_plain_formula_says(paragraphs):
    clean = [" ".join(line.split()) for line in paragraphs]
    kept = [each for each in clean if len(each.split()) >= 4 and each[0] not in "*{"]
    all_of_it = " ".join(filter(None, clean))
    found = prose(paragraphs, 4)
    assert found.line == " ".join(kept)
    assert found.n_words == len(found.line.split())
    assert found.n_left_out == len(all_of_it) - len(found.line)
    assert prose(paragraphs, 0) == (all_of_it, len(all_of_it.split()), 0)


def test_headings_stay_where_all_lines_are_asked_for(layout, tmp_path):
    get(layout, write(tmp_path / "corpus", {"a.jsonl": json_lines(TEXTS)}))
    format_all(layout, min_words=0)
    assert lines_of(layout) == [" ".join(each.split()) for each in TEXTS]


def test_plain_text_by_file_and_by_line(layout, tmp_path):
    content = b"\xef\xbb\xbfA short line.\r\n\nAnother,\rwith a break.\n"
    folder = write(tmp_path / "notes", {"deep/b.txt": content, "a.txt.gz": gzip.compress(b"First."), "c.txt": b""})
    get(layout, folder)
    format_all(layout)
    assert lines_of(layout) == ["First.", "A short line. Another, with a break."]
    with workers(1) as pool:
        format_text(Preparation(layout, pool, overwrite=True), FormatOptions(text_documents=LINES))
    assert lines_of(layout) == ["First.", "A short line.", "Another, with a break."]


def test_several_corpora_are_named_and_counted_apart(layout, tmp_path):
    wiki = write(tmp_path / "20231101.en", {"b.parquet": parquet(TEXTS), "README.md": b"x", ".cache/a.parquet": b"x"})
    write(tmp_path / "more", {"x.jsonl": json_lines(TEXTS[:1]), "y.jsonl": json_lines(TEXTS[1:2]), "z.txt": b"Z."})
    line = get(layout, wiki, f"c4={tmp_path}/more/*.jsonl", f"notes={tmp_path}/more/z.txt")
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
    get(layout, "lang=en")
    assert sorted(tree(layout.download)) == ["lang=en/a b.jsonl", "manifest.json"]


def bad_utf8(*values):
    """Strings as no sound writer has them."""
    return pa.array(values, pa.binary()).view(pa.string())


BAD_FILES = {
    "empty.parquet": (b"", "is no whole Parquet file (Parquet file size is 0 bytes); get it again"),
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
    "empty.json.gz": (b"", "empty.json.gz is empty, and a compressed file never is; get it again"),
    "cut.json.gz": (gzip.compress(json_lines(TEXTS))[:-9], "cut.json.gz is damaged or cut short"),
    "cut.jsonl.zst": (zstd(json_lines(TEXTS))[:-1], "cut.jsonl.zst is damaged or cut short"),
    "plain.jsonl.zst": (json_lines(TEXTS), "plain.jsonl.zst is damaged or cut short"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_refused_in_one_sentence_before_anything_is_done(layout, tmp_path, name):
    content, words = BAD_FILES[name]
    folder = write(tmp_path / "corpus", {name: content, "good.jsonl": json_lines(TEXTS)})
    with pytest.raises(UserError) as raised:
        get(layout, folder)
    (sentence,) = raised.value.sentences
    assert words in sentence
    assert str(folder / name) in sentence
    assert not layout.working_dir.exists()


def test_all_bad_files_and_words_are_told_at_once(layout, tmp_path):
    folder = write(tmp_path / "corpus", {f"{number}.parquet": b"" for number in range(14)})
    with pytest.raises(UserError) as raised:
        get(layout, folder, tmp_path / "none", "c4=*.none")
    assert len(raised.value.sentences) == text.PROBLEMS_SHOWN + 1
    assert "/none has no documents: there is nothing of this name; give folders of files" in raised.value.sentences[0]
    assert raised.value.sentences[-1] == "There are 6 more problems with the files of --source."


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
    get(layout, folder)
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


def test_a_share_is_of_each_corpus(layout, tmp_path):
    write(tmp_path, {"large/a.jsonl": json_lines(TEXTS[:1] * 100), "small/b.jsonl": json_lines([PROSE]) + b"{}\n"})
    get(layout, tmp_path / "large", tmp_path / "small")
    with pytest.raises(UserError, match=r"1 of 2 documents of small in .* cannot be used"):
        format_all(layout)


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst"])
def test_a_file_that_is_cut_behind_its_beginning_is_refused_when_it_is_read(layout, tmp_path, name):
    content = json_lines([f"{PROSE} {os.urandom(500).hex()}" for _ in range(1200)])
    packed = gzip.compress(content) if name.endswith("gz") else zstd(content)
    get(layout, write(tmp_path / "corpus", {name: packed[:-9], "good.jsonl": json_lines(TEXTS)}))
    with pytest.raises(UserError, match=rf"{name} is damaged or cut short .*; get it again"):
        format_all(layout, max_failed_share=1)
    assert not list(layout.formatted.iterdir())


def test_a_damaged_page_of_parquet_is_refused(layout, tmp_path):
    content = bytearray(parquet(TEXTS * 100, compression="none", use_dictionary=False, write_page_checksum=True))
    content[content.index(b"bridge")] ^= 1
    get(layout, write(tmp_path / "corpus", {"a.parquet": bytes(content)}))
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
    get(layout, write(tmp_path / "corpus", files))
    format_all(layout, max_failed_share=0.5)
    assert lines_of(layout) == [PROSE] * 5
    reasons = manifest_of(layout).facts["failures"]
    places = ["line 2 of corpus/a.jsonl", "line 2 of corpus/b.jsonl.gz", "row 2 of corpus/c.parquet", "corpus/d.txt"]
    assert [each.partition(" has more than")[0] for each in reasons] == places


def test_addresses_and_files_of_them(layout, tmp_path):
    files = {f"data/en/{number}.parquet": parquet([f"{PROSE} {number}."]) for number in range(4)}
    with serve(files, break_after=400) as server:
        addresses = [f"{server.url}/{name}?signature=SECRET" for name in files]
        (tmp_path / "list.txt").write_text("# mine\n" + "\n".join(addresses[2:]), encoding="utf-8")
        get(layout, *addresses[:2], f"more={tmp_path / 'list.txt'}")
    format_all(layout)
    assert lines_of(layout) == [f"{PROSE} {number}." for number in range(4)]
    assert list(manifest_of(layout).facts["corpora"]) == ["en", "more"]
    assert not any(b"SECRET" in content for content in tree(layout.working_dir).values())
    assert "downloaded before" in get(layout, *addresses[:2], f"more={tmp_path / 'list.txt'}")


def test_another_column_costs_no_second_download_and_damage_does(layout):
    whole = parquet(TEXTS, column="content")
    with serve({"en/a.parquet": whole[:-9], "en/b.parquet": whole}) as server:
        sources = [f"{server.url}/en/{name}.parquet" for name in "ab"]
        with pytest.raises(UserError, match=r"is no whole Parquet file .*the download was removed, so start again"):
            get(layout, *sources)
        server.files = {"en/a.parquet": whole, "en/b.parquet": whole}
        with pytest.raises(UserError, match=r"a\.parquet has no column 'text'") as raised:
            get(layout, *sources)
        assert len(raised.value.sentences) == 1
        server.requests.clear()
        get(layout, *sources, text_column="content")
        assert [request.path for request in server.requests] == ["en/b.parquet"]
    format_all(layout, text_column="content")
    assert lines_of(layout) == LINES_OF_TEXTS * 2


def test_only_the_first_of_many_addresses_is_downloaded_where_it_is_wrong(layout):
    with serve({f"en/{number}.jsonl": json_lines(TEXTS, "content") for number in range(5)}) as server:
        with pytest.raises(UserError, match="no key 'text'"):
            get(layout, *(f"{server.url}/en/{number}.jsonl" for number in range(5)))
        assert {request.path for request in server.requests} == {"en/0.jsonl"}


def test_what_was_formatted_is_skipped_and_kept(layout, tmp_path):
    get(layout, write(tmp_path / "corpus", {"a.parquet": parquet(TEXTS)}))
    format_all(layout)
    before = tree(layout.working_dir)
    assert "was finished before" in format_all(layout)
    with pytest.raises(UserError, match="made with min_words 8 where 3 is asked for; add --overwrite"):
        format_all(layout, min_words=3)
    assert tree(layout.working_dir) == before


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
