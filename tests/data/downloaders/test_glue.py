"""GLUE's downloads from a local server, with small files of our own in the place of the published ones."""

import csv
import hashlib
import io
import zipfile

import pytest
from corpora import tree
from http_servers import serve

import data.downloaders.glue
from common.errors import UserError
from common.workers import workers
from data.artifacts.layout import GLUE_FOLDERS, Layout
from data.artifacts.manifest import Manifest
from data.artifacts.stage_output import Preparation
from data.downloaders.datasets import download, download_problems
from data.downloaders.folder import DownloadOptions
from data.downloaders.glue import PUBLISHED
from tasks.glue.benchmarks import BENCHMARKS
from tasks.glue.examples import read_glue

MARK = "\ufeff"
TRAIN = f"""{MARK}Quality\t#1 ID\t#2 ID\t#1 String\t#2 String
1\t10\t20\tHe said "so.\tSo, he said.
0\t11\t21\tOne.\tTwo.
1\t12\t22\tThree.\tAlso three.
"""
TEST = f"""{MARK}Quality\t#1 ID\t#2 ID\t#1 String\t#2 String
1\t13\t23\tFour.\t4.
0\t14\t24\tFive.\tSix.
"""


def archive(task):
    buffer = io.BytesIO()
    folder = GLUE_FOLDERS[task]
    with zipfile.ZipFile(buffer, "w") as zipped:
        for name in ("train.tsv", "dev.tsv", "original/raw.jsonl"):
            zipped.writestr(f"{folder}/{name}", f"{task} {name}")
    return buffer.getvalue()


@pytest.fixture
def published(monkeypatch, no_waiting):
    """The files by their paths, whose sizes and sums are those that are expected."""
    # Windows' ends of lines, as in Microsoft's files.
    texts = [TRAIN.replace("\n", "\r\n"), TEST.replace("\n", "\r\n"), "11\t21\n"]
    contents = {"train.txt": texts[0].encode(), "test.txt": texts[1].encode(), "dev_ids.tsv": texts[2].encode()}
    contents["AX.tsv"] = b"index\tsentence1\tsentence2\n0\ta\tb\n"
    files, rows = {}, []
    for task, file, *_ in PUBLISHED:
        content = next((value for end, value in contents.items() if file.endswith(end)), None) or archive(task)
        files[("senteval/senteval_data/" if file.startswith("msr_") else "glue/data/") + file] = content
        rows.append((task, file, len(content), hashlib.sha256(content).hexdigest()))
    monkeypatch.setattr(data.downloaders.glue, "PUBLISHED", tuple(rows))
    return files


def get(working_dir, dataset, **options):
    with workers(1) as pool:
        return list(download(Preparation(Layout(working_dir, dataset), pool, False), DownloadOptions(**options)))


def test_all_of_it(published, tmp_path):
    with serve(published) as server:
        lines = get(tmp_path, "glue", glue_mirror=server.url)
        assert len(lines) == 10
        server.requests.clear()
        assert all("downloaded before" in line for line in get(tmp_path, "glue", glue_mirror=server.url))
        assert server.requests == []
    folder = tmp_path / "download" / "glue"
    assert {path.name for path in folder.iterdir()} == set(GLUE_FOLDERS.values())
    found = {name for name in tree(folder) if not name.endswith("manifest.json")}
    folders = set(GLUE_FOLDERS.values()) - {"MRPC", "diagnostic"}
    archives = {f"{name}/{part}.tsv" for name in folders for part in ("train", "dev")}
    mrpc = {f"MRPC/{name}.tsv" for name in ("train", "dev", "test")}
    assert found == archives | mrpc | {"diagnostic/diagnostic.tsv"}
    assert (folder / "QNLI" / "train.tsv").read_text() == "qnli train.tsv"


def test_mrpc_is_cut_by_glues_list(published, tmp_path):
    with serve(published) as server:
        get(tmp_path, "mrpc", glue_mirror=server.url)
    folder = tmp_path / "download" / "glue" / "MRPC"
    rows = {}
    for name in ("train", "dev", "test"):
        with (folder / f"{name}.tsv").open(encoding="utf-8", newline="") as file:
            rows[name] = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    assert rows["train"][1:] == [
        ["1", "10", "20", 'He said "so.', "So, he said."],
        ["1", "12", "22", "Three.", "Also three."],
    ]
    assert rows["dev"] == [["Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"], ["0", "11", "21", "One.", "Two."]]
    assert rows["test"][0][0] == "index"
    assert [row[0] for row in rows["test"][1:]] == ["0", "1"]
    assert read_glue(folder / "dev.tsv", BENCHMARKS["mrpc"], "score").labels.tolist() == [0]
    assert read_glue(folder / "test.tsv", BENCHMARKS["mrpc"], "predict").texts == (("Four.", "Five."), ("4.", "Six."))
    assert Manifest.read(folder / "manifest.json").outputs.keys() == {"train.tsv", "dev.tsv", "test.tsv"}


@pytest.mark.parametrize("task", ["rte", "mrpc", "ax"])
def test_other_files_are_refused_and_asked_for_again(published, tmp_path, task):
    end = {"rte": "RTE.zip", "mrpc": "ids.tsv", "ax": "AX.tsv"}[task]
    (path,) = (path for path in published if path.endswith(end))
    with serve({**published, path: b"something else"}) as server:
        with pytest.raises(UserError, match=r"has 14 bytes with the SHA-256 .*and GLUE's has .*start again"):
            get(tmp_path, task, glue_mirror=server.url)
        assert not (tmp_path / "download" / "glue" / GLUE_FOLDERS[task]).exists()
        server.files = published
        get(tmp_path, task, glue_mirror=server.url)


def test_a_source_is_refused():
    for dataset in ("glue", "cola"):
        (problem,) = download_problems(dataset, DownloadOptions(source="here"))
        assert problem.problem == f"--source here is not for {dataset}, which has one source"


def test_names_and_sums_are_as_published():
    assert {name: benchmark.folder for name, benchmark in BENCHMARKS.items()} == GLUE_FOLDERS
    assert GLUE_FOLDERS.keys() == {task for task, *_ in PUBLISHED}
    assert all(len(bytes.fromhex(sha256)) == 32 for *_, sha256 in PUBLISHED)
    assert len({sha256 for *_, sha256 in PUBLISHED}) == len(PUBLISHED) == 12
