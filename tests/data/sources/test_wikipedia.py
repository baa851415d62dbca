"""Wikipedia's dump from a server with the faults of real ones, and from this machine."""

import bz2
import hashlib
import os

import pytest
from corpora import tree
from http_servers import serve

from common.errors import UserError
from common.workers import workers
from data.artifacts.layout import Layout
from data.artifacts.manifest import Manifest
from data.artifacts.stage_output import Preparation
from data.downloaders.datasets import download, download_problems
from data.downloaders.folder import DownloadOptions

pytestmark = pytest.mark.usefixtures("no_waiting")

DUMP = bz2.compress(os.urandom(200_000))
NEWER = bz2.compress(os.urandom(1000))


@pytest.fixture
def layout(tmp_path):
    return Layout(tmp_path / "work", "wikicorpus_en")


def published(dump, *dates, latest):
    """What a mirror has: a dump for each date, its sums, and those of the latest."""
    files = {}
    for date in dates:
        name = f"enwiki-{date}-pages-articles.xml.bz2"
        sums = f"{'0' * 40}  enwiki-{date}-abstract.xml.gz\n{hashlib.sha1(dump).hexdigest()}  {name}\n".encode()
        files |= {f"enwiki/{date}/{name}": dump, f"enwiki/{date}/enwiki-{date}-sha1sums.txt": sums}
    return files | {"enwiki/latest/enwiki-latest-sha1sums.txt": files[f"enwiki/{latest}/enwiki-{latest}-sha1sums.txt"]}


def dump_in(layout):
    return layout.download / "wikicorpus_en.xml.bz2"


def get(layout, overwrite=False, **options):
    with workers(1) as pool:
        (line,) = download(Preparation(layout, pool, overwrite), DownloadOptions(**options))
    return line


def test_latest_is_resolved_to_its_date_checked_and_recorded(layout):
    with serve(published(DUMP, "20260101", latest="20260101"), break_after=50_000) as server:
        line = get(layout, wiki_mirror=server.url)
        assert {request.path for request in server.requests} == {
            "enwiki/latest/enwiki-latest-sha1sums.txt",
            "enwiki/20260101/enwiki-20260101-pages-articles.xml.bz2",
        }
    assert "date 20260101" in line
    assert dump_in(layout).read_bytes() == DUMP
    manifest = Manifest.read(layout.download / "manifest.json")
    assert manifest.facts["sha1"] == hashlib.sha1(DUMP).hexdigest()
    assert manifest.facts["address"].endswith("/enwiki/20260101/enwiki-20260101-pages-articles.xml.bz2")
    assert manifest.outputs[dump_in(layout).name].bytes == len(DUMP)
    assert sorted(tree(layout.working_dir)) == [
        f"download/wikicorpus_en/{n}" for n in ("manifest.json", dump_in(layout).name)
    ]
    # The server is gone: what is finished is not asked for again.
    assert "downloaded before and is as it was" in get(layout)


def test_it_goes_on_with_the_dump_that_it_began_with(layout):
    """A newer dump appears while the connection is down."""
    files = published(DUMP, "20260101", latest="20260101")
    with serve(files, break_after=50_000) as server:
        content = server.content
        server.content = lambda path: content(path) if len(server.requests) < 4 else None
        with pytest.raises(UserError, match="404"):
            get(layout, wiki_mirror=server.url)
        server.content = content
        server.files = files | published(NEWER, "20260201", latest="20260201")
        get(layout, wiki_mirror=server.url)
        assert server.requests[-1].range  # not from the beginning
    assert dump_in(layout).read_bytes() == DUMP
    assert Manifest.read(layout.download / "manifest.json").facts["date"] == "20260101"


def test_a_date(layout):
    with serve(published(DUMP, "20260101", "20260201", latest="20260201")) as server:
        get(layout, source="20260101", wiki_mirror=server.url)
        assert {request.path.split("/")[1] for request in server.requests} == {"20260101"}
        with pytest.raises(UserError, match="made with source 20260101 where 20260201 is asked for; add --overwrite"):
            get(layout, source="20260201", wiki_mirror=server.url)
        assert dump_in(layout).read_bytes() == DUMP
        assert "date 20260201" in get(layout, source="20260201", wiki_mirror=server.url, overwrite=True)


def test_a_date_that_is_gone_has_its_remedy(layout):
    with serve({}) as server, pytest.raises(UserError) as raised:
        get(layout, source="20200101", wiki_mirror=server.url)
    assert "404" in raised.value.sentences[0]
    assert (
        "some months only; give --source latest, another date (YYYYMMDD), or a local dump" in raised.value.sentences[1]
    )


def test_a_download_that_is_not_the_published_one_is_removed(layout):
    files = published(DUMP, "20260101", latest="20260101")
    files["enwiki/20260101/enwiki-20260101-pages-articles.xml.bz2"] = NEWER
    with serve(files) as server:
        with pytest.raises(UserError, match=rf"has the SHA-1 {hashlib.sha1(NEWER).hexdigest()}.*start again"):
            get(layout, wiki_mirror=server.url)
        server.files = published(DUMP, "20260101", latest="20260101")
        get(layout, wiki_mirror=server.url)
    assert dump_in(layout).read_bytes() == DUMP


@pytest.mark.parametrize("damaged", ["dump", "sums"])
def test_a_folder_as_a_mirror_loses_nothing(layout, tmp_path, damaged):
    mirror = tmp_path / "mirror"
    for name, content in published(DUMP, "20260101", latest="20260101").items():
        (mirror / name).parent.mkdir(parents=True, exist_ok=True)
        (mirror / name).write_bytes(content)
    date = "enwiki/20260101/enwiki-20260101-"
    (mirror / f"{date}{'pages-articles.xml.bz2' if damaged == 'dump' else 'sha1sums.txt'}").write_bytes(NEWER)
    before = tree(mirror)
    with pytest.raises(UserError, match=f"put the right file at {mirror}/enwiki/20260101/.*, or give another"):
        get(layout, source="20260101", wiki_mirror=str(mirror))
    assert tree(mirror) == before


def test_an_unfinished_dump_lists_no_sum(layout):
    message = "lists no pages-articles dump, so it may not be finished yet"
    with (
        serve({"enwiki/latest/enwiki-latest-sha1sums.txt": b"<html>"}) as server,
        pytest.raises(UserError, match=message),
    ):
        get(layout, wiki_mirror=server.url)


def test_any_address(layout):
    with serve({"mine/some.xml.bz2": DUMP}) as server:
        get(layout, source=f"{server.url}/mine/some.xml.bz2")
        assert dump_in(layout).read_bytes() == DUMP
        assert Manifest.read(layout.download / "manifest.json").facts == {"address": f"{server.url}/mine/some.xml.bz2"}


def test_a_web_page_is_no_dump(layout):
    with serve({"some.xml.bz2": DUMP}, html_page=True) as server, pytest.raises(UserError, match="web page"):
        get(layout, source=f"{server.url}/some.xml.bz2")
    assert not layout.download.exists()


@pytest.mark.parametrize("can_link", [True, False])
def test_a_local_dump(layout, tmp_path, monkeypatch, can_link):
    source = tmp_path / "my.xml.bz2"
    source.write_bytes(DUMP)
    if not can_link:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError("other file system")))
    get(layout, source=str(source))
    assert dump_in(layout).read_bytes() == DUMP
    assert dump_in(layout).samefile(source) == can_link
    assert "downloaded before and is as it was" in get(layout, source=str(source))
    source.rename(tmp_path / "moved.xml.bz2")
    assert "downloaded before" in get(layout, source=str(tmp_path / "moved.xml.bz2"))
    (tmp_path / "other.xml.bz2").write_bytes(NEWER)
    with pytest.raises(UserError, match=r"made from other input than other\.xml\.bz2"):
        get(layout, source=str(tmp_path / "other.xml.bz2"))
    assert dump_in(layout).read_bytes() == DUMP


def test_what_is_no_dump_is_said_before_anything_is_done(tmp_path):
    (tmp_path / "page.html").write_text("<html>", encoding="utf-8")
    for source in (tmp_path / "none", tmp_path / "page.html", "2026"):
        (problem,) = download_problems("wikicorpus_en", DownloadOptions(source=str(source)))
        assert str(problem).startswith(f"--source {source} is no .bz2 file; give latest, a date")
    for source in ("latest", "20260101", "https://example.com/x.bz2", None):
        assert list(download_problems("wikicorpus_en", DownloadOptions(source=source))) == []
