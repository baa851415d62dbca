"""SQuAD and Google's weights from a local server, with archives of our own in the place of the published ones."""

import hashlib
import io
import json
import zipfile
from types import MappingProxyType

import pytest
from corpora import tree
from http_servers import serve

import data.downloaders.datasets
from common.errors import UserError
from common.published_models import PublishedModel
from common.workers import workers
from data.artifacts.layout import Layout
from data.artifacts.manifest import Manifest
from data.artifacts.stage_output import Preparation
from data.downloaders.datasets import download
from data.downloaders.folder import DownloadOptions

pytestmark = pytest.mark.usefixtures("no_waiting")

FILES = {"vocab.txt": b"[PAD]\n", "bert_config.json": b"{}"}


def get(working_dir, dataset, overwrite=False, **options):
    with workers(1) as pool:
        preparation = Preparation(Layout(working_dir, dataset), pool, overwrite)
        return list(download(preparation, DownloadOptions(**options)))


def squad_file(version, n_questions=2):
    questions = [{"id": str(i), "question": "Why?", "answers": []} for i in range(n_questions)]
    return json.dumps({"version": version, "data": [{"paragraphs": [{"context": "So.", "qas": questions}]}]}).encode()


def squad_files():
    return {f"{part}-{v}.json": squad_file(v) for v in ("v1.1", "v2.0") for part in ("train", "dev")}


def test_squad(tmp_path):
    with serve(squad_files(), break_after=60) as server:
        get(tmp_path, "squad", squad_mirror=server.url)
    folder = tmp_path / "download" / "squad"
    assert (folder / "v2.0" / "dev-v2.0.json").read_bytes() == squad_file("v2.0")
    outputs = Manifest.read(folder / "manifest.json").outputs
    assert sorted(outputs) == [f"{v}/{part}-{v}.json" for v in ("v1.1", "v2.0") for part in ("dev", "train")]
    assert "downloaded before" in get(tmp_path, "squad", squad_mirror=server.url)[0]
    assert sorted(path.name for path in (tmp_path / "download").iterdir()) == ["squad"]


@pytest.mark.parametrize("nested", [True, False])
def test_squad_from_a_folder(tmp_path, nested):
    source = tmp_path / "mine"
    for name, content in squad_files().items():
        folder = source / name[-9:-5] if nested else source
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    get(tmp_path, "squad", source=str(source))
    assert "downloaded before" in get(tmp_path, "squad", source=str(source))[0]
    next(source.rglob("dev-v1.1.json")).unlink()
    with pytest.raises(UserError, match=r"There is no dev-v1\.1\.json in .*mine"):
        get(tmp_path, "squad", source=str(source), overwrite=True)
    assert (tmp_path / "download" / "squad" / "v1.1" / "dev-v1.1.json").is_file()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<html>", "is no SQuAD file"),
        (b'{"data": []}', "SQuAD of version None, not v2.0"),
        (squad_file("v1.1"), r"SQuAD of version v1\.1, not v2\.0"),
    ],
)
def test_what_is_not_squad_is_refused(tmp_path, content, words):
    with serve({**squad_files(), "dev-v2.0.json": content}) as server, pytest.raises(UserError, match=words):
        get(tmp_path, "squad", squad_mirror=server.url)
    assert not (tmp_path / "download" / "squad").exists()


def test_a_file_that_is_no_squad_is_downloaded_again(tmp_path):
    with serve({**squad_files(), "dev-v2.0.json": b"<html>"}) as server:
        with pytest.raises(UserError, match="the download was removed, so start again"):
            get(tmp_path, "squad", squad_mirror=server.url)
        server.files = squad_files()
        get(tmp_path, "squad", squad_mirror=server.url)


def test_secrets_of_mirrors_are_not_written_down(tiny):
    files = {**squad_files(), "2020/tiny_bert.zip": archive({**FILES, "vocab.txt": b"other"})}
    with serve(files) as server:
        mirror = server.url.replace("//", "//user:PASSWORD@") + "?sig=SIGNATURE"
        get(tiny, "squad", squad_mirror=mirror)
        with pytest.raises(UserError) as raised:
            get(tiny, "google_pretrained_weights", weights_mirror=mirror, models=["bert_tiny"])
    written = str(raised.value).encode() + b"".join(tree(tiny).values())
    assert f"{server.url}/2020/tiny_bert.zip".encode() in written
    assert not any(secret in written for secret in (b"PASSWORD", b"SIGNATURE"))


def test_an_archive_of_a_folder_stays_there(tiny, tmp_path):
    file = tmp_path / "mirror" / "2020" / "tiny_bert.zip"
    file.parent.mkdir(parents=True)
    file.write_bytes(archive({**FILES, "vocab.txt": b"other"}))
    with pytest.raises(UserError, match=f"not those that were published.*put the right file at {file}"):
        get(tiny, "google_pretrained_weights", weights_mirror=f"{tmp_path}/mirror/", models=["bert_tiny"])
    assert file.read_bytes() == archive({**FILES, "vocab.txt": b"other"})


def archive(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zipped:
        for name, content in files.items():
            zipped.writestr(f"tiny_bert/{name}", content)
    return buffer.getvalue()


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """One published model, whose sums are those of FILES."""
    sums = "".join(f"{hashlib.sha256(FILES[name]).hexdigest()}  {name}\n" for name in sorted(FILES))
    model = PublishedModel("bert_tiny", "2020/tiny_bert.zip", hashlib.sha256(sums.encode()).hexdigest())
    models = MappingProxyType({"bert_tiny": model})
    monkeypatch.setattr(data.downloaders.datasets, "PRETRAINED_MODELS", models)
    return tmp_path / "work"


def test_weights(tiny):
    options = {"models": ["bert_tiny"]}
    with serve({"2020/tiny_bert.zip": archive({**FILES, "more": b"x"})}) as server:
        get(tiny, "google_pretrained_weights", weights_mirror=server.url, **options)
    found = tree(tiny / "download")
    assert (
        Manifest.read(tiny / "download/google_pretrained_weights/tiny_bert/manifest.json").outputs.keys()
        == FILES.keys()
    )
    assert {name: content for name, content in found.items() if not name.endswith("manifest.json")} == {
        f"google_pretrained_weights/tiny_bert/{name}": content for name, content in FILES.items()
    }
    (line,) = get(tiny, "google_pretrained_weights", weights_mirror=server.url, **options)
    assert "downloaded before" in line


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({**FILES, "vocab.txt": b"other"}, r"The files in .*/tiny_bert\.zip are not those that were published"),
        ({"vocab.txt": FILES["vocab.txt"]}, r"The files in .*/tiny_bert\.zip are not those that were published"),
    ],
)
def test_other_weights_are_refused_and_asked_for_again(tiny, files, words):
    options = {"models": ["bert_tiny"]}
    with serve({"2020/tiny_bert.zip": archive(files)}) as server:
        with pytest.raises(UserError, match=words):
            get(tiny, "google_pretrained_weights", weights_mirror=server.url, **options)
        assert not list(tiny.rglob("vocab.txt"))
        server.files = {"2020/tiny_bert.zip": archive(FILES)}
        get(tiny, "google_pretrained_weights", weights_mirror=server.url, **options)
    assert (tiny / "download/google_pretrained_weights/tiny_bert/vocab.txt").read_bytes() == FILES["vocab.txt"]


def test_killed_after_the_download_it_is_not_downloaded_again(tiny, monkeypatch):
    options = {"models": ["bert_tiny"]}
    with serve({"2020/tiny_bert.zip": archive(FILES)}) as server:
        with monkeypatch.context() as patch:
            patch.setattr(
                data.downloaders.datasets, "unpack", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt)
            )
            with pytest.raises(KeyboardInterrupt):
                get(tiny, "google_pretrained_weights", weights_mirror=server.url, **options)
        server.requests.clear()
        get(tiny, "google_pretrained_weights", weights_mirror=server.url, **options)
        assert server.requests == []


def test_all(tiny, tmp_path):
    (tmp_path / "b.txt").write_text("A book.", encoding="utf-8")
    dump = b"BZh and so on"
    sums = f"{hashlib.sha1(dump).hexdigest()}  enwiki-20260101-pages-articles.xml.bz2\n".encode()
    files = {
        **squad_files(),
        "2020/tiny_bert.zip": archive(FILES),
        "enwiki/latest/enwiki-latest-sha1sums.txt": sums,
        "enwiki/20260101/enwiki-20260101-pages-articles.xml.bz2": dump,
    }
    with serve(files) as server:
        mirrors = {f"{name}_mirror": server.url for name in ("wiki", "squad", "weights")}
        lines = get(tiny, "all", source=str(tmp_path / "b.txt"), models=["bert_tiny"], **mirrors)
    assert len(lines) == 4
    assert sorted(path.name for path in (tiny / "download").iterdir()) == [
        *("bookscorpus", "google_pretrained_weights", "squad", "wikicorpus_en"),
    ]
