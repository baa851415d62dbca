"""Verification of NVIDIA's rows without padding and packed ones, made of the sound rows that padded shards are."""

import random

import h5py
import pytest
from naive_shards import make_rows, write_vocabulary
from varlen_shards import packs_of, write_packed, write_varlen

from common.errors import UserError
from common.workers import workers
from data.loading.shard_files import shard_files
from data.verify.report import FAILED, OK
from data.verify.shards import verify


@pytest.fixture(params=["varlen", "packed"])
def folder(request, tmp_path):
    """Two files of 400 rows."""
    for number in range(2):
        arrays = make_rows(seed=number)
        rows = []
        for i, mask in enumerate(arrays["input_mask"]):
            n, masked = int(mask.sum()), arrays["masked_lm_positions"][i]
            labels = arrays["masked_lm_ids"][i][masked != 0].tolist()
            pairs = tuple(zip(masked[masked != 0].tolist(), labels, strict=True))
            ids, segments = (arrays[name][i][:n].tolist() for name in ("input_ids", "segment_ids"))
            rows.append((ids, segments, pairs, int(arrays["next_sentence_labels"][i])))
        if request.param == "varlen":
            write_varlen(tmp_path / f"part_0000{number}_of_00002.hdf5", rows)
        else:
            write_packed(tmp_path / f"part_0000{number}", packs_of(rows, random.Random(0), 128))
    return tmp_path


def run(folder, tmp_path):
    with workers(1) as pool:
        return verify(folder, pool, vocab_file=write_vocabulary(tmp_path / "vocab.txt"))


def test_sound_rows_pass_with_the_statistics_of_padded_ones(folder, tmp_path):
    report = run(folder, tmp_path)
    assert {check.status for check in report.checks} == {OK}
    (statistics,) = report.statistics.values()
    assert (statistics["files"], statistics["rows"]) == (2, 800)
    assert statistics["share masked"] == pytest.approx(0.15, abs=0.01)
    assert any("rows have up to 64 tokens and 10 masked positions" in note for note in report.notes)


def test_what_is_wrong_is_told_by_file_and_check(folder, tmp_path):
    first, second = shard_files(folder)
    with h5py.File(first, "r+") as file:
        file["segment_ids"][3] = file["segment_ids"][3] * 0 + 2
    with h5py.File(second, "r+") as file:
        ids = file["input_ids"][2]
        ids[0] = 7
        file["input_ids"][2] = ids
    report = run(folder, tmp_path)
    assert {check.name for check in report.checks if check.status == FAILED} == {"datasets", "special tokens"}
    assert "Row 3 of it has segment_ids that are not from 0 to 1" in report.text()
    assert "input_ids does not start with [CLS]" in report.text()


def test_a_folder_of_which_nothing_can_be_read_is_one_sentence(folder, tmp_path):
    for path in shard_files(folder):
        with h5py.File(path, "r+") as file:
            file["segment_ids"][3] = [1]
    with pytest.raises(UserError, match=r"None of the 2 files in .* can be read; get them again"):
        run(folder, tmp_path)
