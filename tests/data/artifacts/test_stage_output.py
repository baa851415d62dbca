"""What a stage makes of what lies where it would write: nothing lost, nothing done twice."""

import dataclasses
import json
import os
from pathlib import Path

import pytest
from corpora import tree

from common.errors import UserError
from common.workers import workers
from data.artifacts.layout import Layout
from data.artifacts.manifest import FILE_NAME, JOURNAL_NAME, FileRecord, Manifest
from data.artifacts.stage_output import Preparation, StageOutput, relative_to

INPUT = {"in.txt": FileRecord(3, "aa")}
WANTED = Manifest("sharding", "x", {"n": 2, "of": (1, 2)}, INPUT, {}, {"python": "3"})


@pytest.fixture
def pool():
    with workers(1) as pool:
        yield pool


def write_files(folder, **texts):
    """Files NAME.txt; returns their records."""
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    return {f"{name}.txt": FileRecord.of(folder / f"{name}.txt", rows=len(text)) for name, text in texts.items()}


def output_in(folder, pool, wanted=WANTED, overwrite=False):
    return StageOutput(folder / FILE_NAME, wanted, Preparation(Layout(folder, "x"), pool, overwrite))


def finished_output(folder, pool, **changes):
    """An output of two files that a stage finished, and how another stage would look at it."""
    output_in(folder, pool).finish(write_files(folder, a="one", b="three"))
    return output_in(folder, pool, dataclasses.replace(WANTED, **changes))


def test_a_manifest_is_read_as_it_was_written(tmp_path, pool):
    finished_output(tmp_path, pool)
    manifest = Manifest.read(tmp_path / FILE_NAME)
    assert manifest.outputs["b.txt"] == FileRecord(
        5, "8b5b9db0c13db24256c829aa364aa90c6d2eba318b9232a4ab9313b954d3555f", {"rows": 5}
    )
    assert (manifest.inputs, manifest.versions, manifest.total("rows")) == (INPUT, {"python": "3"}, 8)


def test_nothing_there(tmp_path, pool):
    output = output_in(tmp_path / "new", pool)
    assert output.whole_files() == {}
    assert output.manifest_of({}) is None
    assert not (tmp_path / "new").exists()


def test_finished_is_recognized_in_another_place(tmp_path, pool):
    finished_output(tmp_path / "here", pool)
    os.rename(tmp_path / "here", tmp_path / "there")
    output = output_in(tmp_path / "there", pool)
    whole = output.whole_files((tmp_path / "there").glob("*.txt"))
    assert output.manifest_of(whole).outputs == whole


@pytest.mark.parametrize("damage", ["missing", "shorter", "flipped"])
def test_what_is_damaged_is_not_whole(tmp_path, pool, damage):
    output = finished_output(tmp_path, pool)
    if damage == "missing":
        (tmp_path / "b.txt").unlink()
    else:
        (tmp_path / "b.txt").write_text({"shorter": "thre", "flipped": "threE"}[damage], encoding="utf-8")
    whole = output.whole_files()
    assert list(whole) == ["a.txt"]
    assert output.manifest_of(whole) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"parameters": {"n": 3, "of": (1, 2)}}, "made with n 2 where 3 is asked for"),
        ({"parameters": {"n": 2, "of": (1, 2), "more": 1}}, "made with more None where 1 is asked for"),
        ({"inputs": {"other.txt": FileRecord(3, "bb")}}, "made from other input than other.txt"),
        ({"inputs": {}}, "made from other input than there is now"),
        ({"stage": "extraction"}, "holds the sharding of x made with stage sharding where extraction is asked for"),
    ],
)
def test_what_was_made_otherwise_is_refused_and_kept(tmp_path, pool, changes, words):
    output = finished_output(tmp_path, pool, **changes)
    before = tree(tmp_path)
    with pytest.raises(UserError, match=words) as raised:
        output.whole_files()
    assert "--overwrite" in str(raised.value)
    assert tree(tmp_path) == before
    assert output_in(tmp_path, pool, output.wanted, overwrite=True).whole_files() == {}


def test_inputs_count_by_their_content_and_not_by_their_place(tmp_path, pool):
    moved = {"/elsewhere/in.txt": dataclasses.replace(INPUT["in.txt"], counts={"documents": 9})}
    output = finished_output(tmp_path, pool, inputs=moved, versions={"python": "4"})
    assert len(output.whole_files()) == 2


def test_files_without_a_manifest_are_refused(tmp_path, pool):
    write_files(tmp_path, a="mine")
    output = output_in(tmp_path, pool)
    with pytest.raises(UserError, match=r"a.txt is there and no manifest.json says what it was made from"):
        output.whole_files([tmp_path / "a.txt"])
    assert output_in(tmp_path, pool, overwrite=True).whole_files([tmp_path / "a.txt"]) == {}


def test_journal(tmp_path, pool):
    """Killed after every line of it, and in the middle of one: what is in whole lines counts."""
    output = output_in(tmp_path, pool)
    records = write_files(tmp_path, a="one", b="three", c="four")
    output.start_journal({"a.txt": records["a.txt"]})
    output.add_to_journal("b.txt", records["b.txt"])
    assert list(output.whole_files()) == ["a.txt", "b.txt"]
    output.add_to_journal("c.txt", records["c.txt"])
    journal = tmp_path / JOURNAL_NAME
    whole_lines = journal.read_bytes()
    for end, expected in ((len(whole_lines), 3), (len(whole_lines) - 1, 2), (len(whole_lines) - 9, 2)):
        journal.write_bytes(whole_lines[:end])
        assert len(output.whole_files()) == expected
    journal.write_bytes(whole_lines[:20])
    assert output.whole_files() == {}
    journal.write_bytes(whole_lines)
    assert output.manifest_of(records) is None  # a journal is no manifest

    assert output.finish(records).outputs == records
    assert not journal.exists()
    assert output.finished()


def test_unfinished_again_while_damaged_files_are_made_anew(tmp_path, pool):
    output = finished_output(tmp_path, pool)
    (tmp_path / "a.txt").unlink()
    output.start_journal(output.whole_files())
    assert not (tmp_path / FILE_NAME).exists()
    assert list(output.whole_files()) == ["b.txt"]


def test_a_journal_of_other_parameters_is_refused(tmp_path, pool):
    output_in(tmp_path, pool).start_journal({})
    other = dataclasses.replace(WANTED, parameters={"n": 9})
    with pytest.raises(UserError, match="n 2 where 9"):
        output_in(tmp_path, pool, other).whole_files()


def test_what_a_killed_run_was_writing_goes(tmp_path, pool):
    output = finished_output(tmp_path, pool)
    for name in (
        ".x_training_0.hdf5.abc.unfinished",
        ".manifest.json.abc.unfinished",
        ".manifest.unfinished.jsonl.abc.unfinished",
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").touch()
    (tmp_path / ".mine").mkdir()
    (tmp_path / ".x.lock").touch()
    output.start_journal({})
    assert sorted(path.name for path in tmp_path.glob(".*")) == [".mine", ".x.lock"]


def test_a_whole_folder_is_made_or_none(tmp_path, pool):
    output = output_in(tmp_path / "out", pool)
    (tmp_path / ".out.of a killed run.unfinished").mkdir()
    with pytest.raises(FileNotFoundError):
        output.make_folder(lambda new: ({"a.txt": {}}, {}))
    assert list(tmp_path.iterdir()) == []
    manifest = output.make_folder(lambda new: ({name: {} for name in write_files(new, a="one")}, {"date": "today"}))
    assert sorted(tree(tmp_path)) == ["out/a.txt", f"out/{FILE_NAME}"]
    assert output.finished() == Manifest.read(tmp_path / "out" / FILE_NAME)
    assert output.finished().facts == manifest.facts == {"date": "today"}


def test_relative_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert relative_to(tmp_path / "a" / "b", tmp_path) == "a/b"
    assert relative_to(Path("a"), tmp_path) == "a"
    assert relative_to(tmp_path / "a", tmp_path / "b") == f"{tmp_path}/a"


def test_the_journal_is_json_lines(tmp_path, pool):
    output = output_in(tmp_path, pool)
    output.start_journal({})
    output.add_to_journal("a.txt", FileRecord(1, "ff", {"rows": 2}))
    first, second = map(json.loads, (tmp_path / JOURNAL_NAME).read_text(encoding="utf-8").splitlines())
    assert first["parameters"] == {"n": 2, "of": [1, 2]}
    assert second == ["a.txt", {"bytes": 1, "sha256": "ff", "counts": {"rows": 2}}]
