"""Books from folders, archives, addresses and lists of addresses; what is no book is named, and nothing is lost."""

import csv
import os
import stat
import tarfile
import zipfile
from urllib.parse import unquote

import pytest
from corpora import tree
from http_servers import serve

from common.errors import UserError
from common.workers import workers
from data.artifacts.layout import Layout
from data.artifacts.manifest import Manifest
from data.artifacts.stage_output import Preparation
from data.corpus.formatting import write_documents
from data.downloaders.datasets import download, download_problems
from data.downloaders.folder import DownloadOptions
from data.sources.books import AT_ONCE, Source

pytestmark = pytest.mark.usefixtures("no_waiting")

BOOKS = {"a.txt": b"Once upon a time.", "deep/er/b.txt": "Zwölf Bücher.".encode()}


@pytest.fixture
def layout(tmp_path):
    return Layout(tmp_path / "work", "bookscorpus")


def get(layout, source, overwrite=False, **options):
    with workers(1) as pool:
        (line,) = download(Preparation(layout, pool, overwrite), DownloadOptions(source=str(source), **options))
    return line


def write(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def books_in(layout):
    return {name: content for name, content in tree(layout.download).items() if name.endswith(".txt")}


def archived(path, files):
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    else:
        write(path.parent / "to_pack", files)
        with tarfile.open(path, f"w:{path.suffix[1:]}") as archive:
            archive.add(path.parent / "to_pack", ".")
    return path


def test_a_folder_and_only_what_is_in_it(layout, tmp_path):
    source = write(tmp_path / "books", {**BOOKS, "cover.jpg": b"\xff\xd8"})
    assert get(layout, source).startswith("books: 2 files, 0.0 MB, in")
    assert books_in(layout) == BOOKS
    assert "downloaded before and is as it was" in get(layout, source)
    write(source, {"c.txt": b"A third one."})
    with pytest.raises(UserError, match=r"made from other input than c\.txt; add --overwrite"):
        get(layout, source)
    assert books_in(layout) == BOOKS
    (source / "a.txt").unlink()
    get(layout, source, overwrite=True)
    assert sorted(books_in(layout)) == ["c.txt", "deep/er/b.txt"]


def test_a_file(layout, tmp_path):
    get(layout, write(tmp_path, {"one.txt": b"A book."}) / "one.txt")
    assert books_in(layout) == {"one.txt": b"A book."}


@pytest.mark.parametrize("name", ["b.zip", "b.tar.gz", "b.tar.bz2"])
@pytest.mark.parametrize("remote", [False, True])
def test_archives(layout, tmp_path, name, remote):
    path = archived(tmp_path / name, {**BOOKS, "LICENSE": b"mine"})
    with serve({name: path.read_bytes()}) as server:
        get(layout, f"{server.url}/{name}" if remote else path)
    assert books_in(layout) == BOOKS
    assert len(Manifest.read(layout.download / "manifest.json").outputs) == 2
    assert "LICENSE" not in tree(layout.download)


def test_the_address_of_a_book(layout):
    with serve({"x/b.txt": b"A book."}) as server:
        get(layout, f"{server.url}/x/b.txt")
    assert books_in(layout) == {"b.txt": b"A book."}


def list_of(path, addresses):
    path.write_text("# my books\n\n" + "\n".join(addresses) + "\n", encoding="utf-8")
    return path


def results_in(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_a_list_is_downloaded_politely_and_in_order(layout, tmp_path):
    files = {f"b{i}.txt": f"Book {i}.".encode() for i in range(20)}
    with serve(files, delay=0.02) as server:
        get(layout, list_of(tmp_path / "urls.txt", [f"{server.url}/b{i}.txt" for i in range(20)]))
        assert server.most_connections <= AT_ONCE
    assert books_in(layout) == {f"{i:06d}-b{i}.txt": f"Book {i}.".encode() for i in range(20)}
    results = results_in(layout.download / "results.tsv")
    assert [(r["result"], r["file or error"]) for r in results] == [("ok", f"{i:06d}-b{i}.txt") for i in range(20)]


def test_a_few_of_a_list_may_fail_and_too_many_are_asked_for_again(layout, tmp_path):
    files = {f"b{i}.txt": f"Book {i}.".encode() for i in range(10)}
    with serve({name: files[name] for name in ("b0.txt", "b1.txt")}) as server:
        source = list_of(tmp_path / "urls.txt", [f"{server.url}/{name}" for name in files])
        with pytest.raises(UserError, match=r"8 of 10 books could not be had, more than --max_failed_share 0.2.*404"):
            get(layout, source, max_failed_share=0.2)
        results = results_in(tmp_path / "work" / "download" / ".bookscorpus.partial" / "results.tsv")
        assert [r["result"] for r in results] == ["ok"] * 2 + ["failed"] * 8
        assert not layout.download.exists()
        server.files = {name: content for name, content in files.items() if name not in ("b0.txt", "b7.txt")}
        server.requests.clear()
        line = get(layout, source, max_failed_share=0.2)
        assert {request.path for request in server.requests} == {f"b{i}.txt" for i in range(2, 10)}
    assert "asked_for 10, failed 1" in line
    assert len(books_in(layout)) == 9
    assert "000007-b7.txt" not in books_in(layout)
    assert Manifest.read(layout.download / "manifest.json").facts == {"asked_for": 10, "failed": 1}


def test_a_line_that_is_no_address_fails_alone(layout, tmp_path):
    long = "%E6%9B%B8" * 100  # 300 bytes, where file systems take 255
    with serve({"b0.txt": b"Book 0.", f"{unquote(long)}.txt": b"Book 1."}) as server:
        addresses = [f"{server.url}/b0.txt", f"{server.url}/{long}.txt", "http://[bad/x.txt"]
        line = get(layout, list_of(tmp_path / "urls.txt", addresses), max_failed_share=0.5)
    assert "asked_for 3, failed 1" in line
    assert sorted(books_in(layout).values()) == [b"Book 0.", b"Book 1."]
    assert [r["result"] for r in results_in(layout.download / "results.tsv")] == ["ok", "ok", "failed"]


def test_secrets_in_a_list_are_not_written_down(layout, tmp_path):
    with serve({"a.txt": b"Book."}) as server:
        host = server.url.removeprefix("http://")
        addresses = [f"http://user:PASSWORD@{host}/{name}.txt?X-Amz-Signature=SIGNATURE" for name in ("a", "none")]
        line = get(layout, list_of(tmp_path / "urls.txt", addresses), max_failed_share=0.5)
    written = b"".join([line.encode(), *tree(layout.working_dir).values()])
    assert f"http://{host}/none.txt: HTTP status 404".encode() in written
    assert not any(secret in written for secret in (b"PASSWORD", b"SIGNATURE"))


def test_a_damaged_archive_is_downloaded_again(layout):
    whole = archived(layout.working_dir.with_name("b.zip"), {"a.txt": b"Book."}).read_bytes()
    with serve({"b.zip": whole[:60]}) as server:
        with pytest.raises(UserError, match=r"not an archive.*the download was removed, so start again"):
            get(layout, f"{server.url}/b.zip")
        server.files = {"b.zip": whole}
        get(layout, f"{server.url}/b.zip")
    assert books_in(layout) == {"a.txt": b"Book."}


@pytest.mark.parametrize("name", ["a.txt", "a.zip"])
def test_a_bad_book_that_was_corrected_on_the_server_is_downloaded_again(layout, tmp_path, name):
    bad, good = (
        text if name == "a.txt" else archived(tmp_path / "b.zip", {"a.txt": text}).read_bytes()
        for text in (LATIN, b"A book.")
    )
    with serve({name: bad}) as server:
        with pytest.raises(UserError, match="is not UTF-8"):
            get(layout, f"{server.url}/{name}")
        server.files = {name: good}
        get(layout, f"{server.url}/{name}")
    assert books_in(layout) == {"a.txt": b"A book."}


def test_signatures_are_not_written_down(layout):
    with serve({"a.txt": b"Book."}) as server:
        source = f"{server.url}/a.txt?X-Amz-Signature=SECRET"
        assert list(download_problems("bookscorpus", DownloadOptions(source=source))) == []
        get(layout, source)
        assert "downloaded before" in get(layout, source.replace("SECRET", "RENEWED"))
    assert books_in(layout) == {"a.txt": b"Book."}
    assert not any(b"SECRET" in content for content in tree(layout.working_dir).values())
    (problem,) = download_problems("bookscorpus", DownloadOptions(source="https://user:pw@host/a.pdf?token=SECRET"))
    assert "host/a.pdf" in str(problem)
    assert not any(secret in str(problem) for secret in ("pw", "SECRET"))


def test_an_archive_without_books_or_that_climbs_out(layout, tmp_path):
    with pytest.raises(UserError, match=r"There is no book in --source .*none\.zip"):
        get(layout, archived(tmp_path / "none.zip", {"a.pdf": b"x"}))
    with pytest.raises(UserError, match=r"climbs\.zip.*\.\./out\.txt"):
        get(layout, archived(tmp_path / "climbs.zip", {"../out.txt": b"x"}))
    assert sorted(tree(tmp_path)) == ["climbs.zip", "none.zip"]


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"caf\xe9", r"deep/bad\.txt is not UTF-8 text"), (b"MZ\0\0", r"deep/bad\.txt holds zero bytes")],
)
def test_a_book_that_is_no_text_ends_the_download_and_not_the_formatting(layout, tmp_path, content, words):
    source = write(tmp_path / "books", {**BOOKS, "deep/bad.txt": content})
    with pytest.raises(UserError, match=f"^The book {words}"):
        get(layout, source)
    assert not layout.download.exists()


LATIN = "Le vieux pont a été bâti par le roi.".encode("latin-1")


@pytest.mark.parametrize("kind", ["folder", "zip", "tar.gz"])
def test_a_few_bad_books_are_left_out_and_too_many_are_named_at_once(layout, tmp_path, kind):
    files = {f"{i}.TXT": LATIN if i in (3, 6, 8) else b"A book." for i in range(10)}
    files |= {"._1.txt": b"\0\5", "__MACOSX/._1.txt": b"\0", "notes.md": b"No book."}
    source = write(tmp_path / "books", files) if kind == "folder" else archived(tmp_path / f"books.{kind}", files)
    with pytest.raises(UserError) as raised:
        get(layout, source)
    *named, last = raised.value.sentences
    assert [sentence.partition(" is not UTF-8 text")[0] for sentence in named] == [
        f"The book {i}.TXT" for i in (3, 6, 8)
    ]
    assert last.startswith("3 of 10 books cannot be used, more than --max_failed_share 0.05; ")
    assert not layout.download.exists()
    line = get(layout, source, max_failed_share=0.3)
    kept = {f"{i}.TXT" for i in range(10) if i not in (3, 6, 8)}
    assert set(tree(layout.download)) == {"manifest.json", *kept}
    left_out = Manifest.read(layout.download / "manifest.json").facts["left_out"]
    assert {reason: len(names) for reason, names in left_out.items()} == {
        "hidden or made by an operating system": 2,
        "not .txt": 1,
        "that cannot be used": 3,
    }
    assert "1 not .txt (notes.md)" in line
    assert "3 that cannot be used (The book 3.TXT is not UTF-8 text" in line
    with workers(1) as pool:
        source = Source()
        assert write_documents(source, source.texts(layout), tmp_path / "f", pool).record.counts["documents"] == 7


def test_a_link_and_a_damaged_member_of_an_archive_cost_themselves_alone(layout, tmp_path):
    archive = archived(tmp_path / "books.zip", {f"{i}.txt": f"Book {i}.".encode() for i in range(20)})
    with zipfile.ZipFile(archive, "a") as file:
        link = zipfile.ZipInfo("link.txt")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        file.writestr(link, "0.txt")
    archive.write_bytes(archive.read_bytes().replace(b"Book 7.", b"Bxxk 7."))
    line = get(layout, archive)
    assert "1 a link or device (link.txt), 1 that cannot be used (The book 7.txt cannot be unpacked (damaged" in line
    assert sorted(books_in(layout)) == sorted(f"{i}.txt" for i in range(20) if i != 7)


def test_a_bad_book_of_a_list_is_a_failed_row(layout, tmp_path):
    with serve({"a.txt": b"A book.", "b.txt": LATIN}) as server:
        addresses = [f"{server.url}/a.txt", f"{server.url}/b.txt"]
        assert "asked_for 2, failed 1" in get(layout, list_of(tmp_path / "urls.txt", addresses), max_failed_share=0.5)
    assert [row["result"] for row in results_in(layout.download / "results.tsv")] == ["ok", "failed"]
    assert list(books_in(layout).values()) == [b"A book."]


def test_a_book_without_an_end_is_neither_read_nor_hashed(layout, tmp_path):
    source = write(tmp_path / "books", BOOKS)
    with open(source / "sparse.txt", "wb") as file:
        file.truncate(2**40)
    os.mkfifo(source / "pipe.txt")
    with pytest.raises(UserError, match=r"The book sparse\.txt has 1,099,511,627,776 bytes"):
        get(layout, source)
    line = get(layout, source, max_failed_share=0.5)
    assert "(pipe.txt)" in line
    assert books_in(layout) == BOOKS
    for single in ("sparse.txt", "pipe.txt"):
        options = DownloadOptions(source=str(source / single))
        assert (not list(download_problems("bookscorpus", options))) == (single == "sparse.txt")


def test_what_is_no_source_is_said_before_anything_is_done(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "b.pdf").write_bytes(b"x")
    for source, words in (
        (None, "The books need --source"),
        (tmp_path / "none", "There is no book in --source"),
        (tmp_path / "empty", "There is no book in --source"),
        (tmp_path / "b.pdf", "b.pdf; give a folder of .txt files"),
        ("https://example.com/index.html", "index.html; give a folder of .txt files"),
    ):
        options = DownloadOptions(source=None if source is None else str(source))
        (problem,) = download_problems("bookscorpus", options)
        assert words in str(problem)
