"""Verification of HDF5 shards: sound ones pass, and each kind of damage is caught by the check that is named for it.

The sound shards are made without the project's code (naive_shards.py).
"""

import dataclasses
import json
import random
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from corpora import write_text_shard, write_vocab
from naive_shards import CLS, MASK, N_ROWS, SEP, UNK, VOCAB, P, S, make_row, make_rows, save, write_vocabulary

from common.errors import UserError
from common.workers import workers
from data.artifacts.manifest import FileRecord, Manifest
from data.create_pretraining_data import create_shards
from data.masked_lm.instances import InstanceOptions
from data.verify import rows
from data.verify.report import FAILED, OK, WARNING, Report
from data.verify.shards import BY_MANIFEST, verify
from file_utils import sha256_of


def write_manifest(folder, **parameters):
    outputs = {}
    for path in sorted(folder.glob("*.hdf5")):
        with h5py.File(path) as file:
            outputs[path.name] = FileRecord.of(path, rows=len(file["input_ids"]))
    standard = {
        "max_seq_length": S,
        "max_predictions_per_seq": P,
        "masked_lm_prob": 0.15,
        "vocabulary": {"sha256": "0" * 64, "size": VOCAB, "cls": CLS, "sep": SEP, "mask": MASK},
    }
    Manifest("create_hdf5_files", "corpus", {**standard, **parameters}, {}, outputs).write(folder / "manifest.json")


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Two training shards and a test shard."""
    folder = tmp_path_factory.mktemp("good")
    for seed, name in enumerate(("training_0", "training_1", "test_0")):
        save(folder / f"corpus_{name}.hdf5", make_rows(seed=seed))
    return folder


@pytest.fixture
def folder(good, tmp_path):
    """A copy of the good shards, to be damaged."""
    return Path(shutil.copytree(good, tmp_path / "shards"))


@pytest.fixture(scope="module")
def vocab_file(tmp_path_factory):
    """The vocabulary that the shards were made with."""
    return write_vocabulary(tmp_path_factory.mktemp("vocab") / "vocab.txt")


def run(folder, n_processes=1, **options) -> Report:
    with workers(n_processes) as pool:
        return verify(folder, pool, **options)


def statuses(report):
    return {check.name: check.status for check in report.checks}


def failed(report):
    return [check.name for check in report.checks if check.status != OK]


def by_name(report, name):
    return next(check for check in report.checks if check.name == name)


# ---------------------------------------------------------------------------------------------------- sound shards


@pytest.mark.parametrize("n_processes", [1, 2])
def test_sound_shards_with_a_manifest_pass_every_check(folder, n_processes):
    write_manifest(folder)
    report = run(folder, n_processes)
    assert statuses(report) == dict.fromkeys((*BY_MANIFEST, "readable", *rows.CHECKS), OK)
    assert report.failure() is None


def test_parameters_that_are_asked_for_are_held_against_the_manifest(folder):
    write_manifest(folder, dupe_factor=5)
    assert run(folder, asked=[{"max_seq_length": 512}, {"max_seq_length": S, "dupe_factor": 5}]).failure() is None
    with pytest.raises(UserError) as raised:
        run(folder, asked=[{"max_seq_length": 512, "dupe_factor": 5}])
    assert raised.value.sentences == [
        f"{folder} was made with max_seq_length {S}, dupe_factor 5, and not with max_seq_length 512, dupe_factor 5; "
        "correct these flags or leave them out."
    ]


def test_parameters_that_are_asked_for_take_a_missing_manifests_place(folder, vocab_file):
    report = run(folder, vocab_file=vocab_file, asked=[{"max_seq_length": S + 1, "max_predictions_per_seq": P}])
    assert "tokens" in str(report.failure())
    assert not any("Most files hold rows" in note for note in report.notes)


def test_without_a_manifest_the_vocabulary_is_asked_for(folder, vocab_file):
    with pytest.raises(UserError, match=r"No manifest\.json .* says which vocabulary .*; give --vocab_file\."):
        run(folder)
    report = run(folder, vocab_file=vocab_file)
    assert statuses(report) == dict.fromkeys(("readable", *rows.CHECKS), OK)
    assert any("hashes and lost files cannot be checked" in note for note in report.notes)


@pytest.mark.parametrize("dtype", ["int64", "uint16", ">i4"])
@pytest.mark.parametrize("storage", [{"compression": "gzip"}, {"compression": "lzf"}, {"chunks": None}])
def test_other_integer_types_and_storage(tmp_path, vocab_file, dtype, storage):
    arrays = {name: array.astype(dtype) for name, array in make_rows().items()}
    save(tmp_path / "2_training.hdf5", arrays, **storage)
    assert failed(run(tmp_path, vocab_file=vocab_file)) == []


def test_the_statistics_are_those_of_a_plain_count(folder, vocab_file):
    report = run(folder, vocab_file=vocab_file)
    shards = [make_rows(seed=seed) for seed in (0, 1)]
    lengths = [int(length) for arrays in shards for length in arrays["input_mask"].sum(axis=1)]
    now = [
        (ids[p], label)
        for arrays in shards
        for ids, positions, labels in zip(
            arrays["input_ids"], arrays["masked_lm_positions"], arrays["masked_lm_ids"], strict=True
        )
        for p, label in zip(positions, labels, strict=True)
        if p
    ]
    numbers = report.statistics["training"]
    assert numbers["files"] == 2
    assert numbers["rows"] == 2 * N_ROWS
    assert numbers["mean length"] == pytest.approx(np.mean(lengths))
    assert numbers["share masked"] == pytest.approx(len(now) / sum(lengths))
    assert numbers["of these [MASK]"] == pytest.approx(sum(token == MASK for token, _ in now) / len(now))
    assert numbers["of these kept"] == pytest.approx(sum(token == label for token, label in now) / len(now))
    randoms = np.mean([arrays["next_sentence_labels"] for arrays in shards])
    assert numbers["share of random next sentences"] == pytest.approx(randoms)
    assert numbers["lengths"]["57-64"] == sum(length >= 57 for length in lengths)
    assert sum(numbers["lengths"].values()) == 2 * N_ROWS
    assert report.statistics["test"]["rows"] == N_ROWS


def test_the_report_as_text_and_as_json(folder, vocab_file):
    report = run(folder, vocab_file=vocab_file)
    text = report.text()
    for word in ("training:", "test:", "share of full rows", "57-64", "ok       input_mask"):
        assert word in text
    assert json.loads(json.dumps(report.as_dict()))["statistics"]["test"]["files"] == 1


@pytest.mark.parametrize("masking", ["tokens", "whole_words"])
def test_shards_of_our_own_pass(tmp_path, masking):
    vocab = write_vocab(tmp_path / "vocab.txt")
    output = tmp_path / "hdf5_masked_lm_prob_0.2" / "corpus"
    options = InstanceOptions(64, 12, 0.2, 0.1, 5, masking)
    for index, name in enumerate(("training_0", "training_1", "test_0")):
        text = write_text_shard(tmp_path / f"{name}.txt", n_documents=60, seed=index)
        create_shards([text], [(options, output / f"{name}.hdf5")], vocab, True, 1)
    assert failed(run(output, vocab_file=vocab)) == []


# --------------------------------------------------------------------------------------------------------- damage


def put(name, row, column, value):
    """Damage that sets one number; a function of the row's values may give column and value."""

    def damage(arrays):
        values = {key: array[row] for key, array in arrays.items()}
        place = column(values) if callable(column) else column
        arrays[name][row, place] = value(values) if callable(value) else value

    return damage


def length(row):
    return int(row["input_mask"].sum())


def first_sep(row):
    return int(np.argmax(row["segment_ids"])) - 1


def unmasked(row):
    return next(i for i in range(1, S) if i not in (*row["masked_lm_positions"], first_sep(row)))


def end(row):
    return length(row) - 1


def n_masked(row):
    return int(np.count_nonzero(row["masked_lm_positions"]))


def without_last_mask(arrays):
    last = n_masked({name: array[3] for name, array in arrays.items()}) - 1
    place = arrays["masked_lm_positions"][3, last]
    arrays["input_ids"][3, place] = arrays["masked_lm_ids"][3, last]
    arrays["masked_lm_positions"][3, last] = arrays["masked_lm_ids"][3, last] = 0


def swap_positions(arrays):
    for name in ("masked_lm_positions", "masked_lm_ids"):
        arrays[name][3, [1, 2]] = arrays[name][3, [2, 1]]


def twice_the_same_position(arrays):
    for name in ("masked_lm_positions", "masked_lm_ids"):
        arrays[name][3, 2] = arrays[name][3, 1]


def gap_in_positions(arrays):
    for name in ("masked_lm_positions", "masked_lm_ids"):
        arrays[name][3, 1] = 0


def mask_the_sep(arrays):
    # The one next to a masked place or past it, such that the positions stay in order.
    positions, sep = arrays["masked_lm_positions"][3], S - 1
    arrays["input_ids"][3, positions[9]] = arrays["masked_lm_ids"][3, 9]
    positions[9], arrays["masked_lm_ids"][3, 9] = sep, SEP
    arrays["input_ids"][3, sep] = MASK


def move_the_segments(arrays):
    arrays["segment_ids"][3, first_sep({name: array[3] for name, array in arrays.items()}) + 1] = 0


def one_segment_only(arrays):
    arrays["segment_ids"][3] = 0


def no_tokens(arrays):
    for name in ("input_ids", "input_mask", "segment_ids", "masked_lm_positions", "masked_lm_ids"):
        arrays[name][3] = 0


def masked_all_kept(arrays):
    for row, labels, ids in zip(
        arrays["masked_lm_positions"], arrays["masked_lm_ids"], arrays["input_ids"], strict=True
    ):
        ids[row[row > 0]] = labels[row > 0]


def masked_all_mask(arrays):
    for row, ids in zip(arrays["masked_lm_positions"], arrays["input_ids"], strict=True):
        ids[row[row > 0]] = MASK


def repeated_row(arrays):
    for array in arrays.values():
        array[7] = array[3]


def all_labels(value):
    def damage(arrays):
        arrays["next_sentence_labels"][:] = value

    return damage


DAMAGE = {
    "zero in the mask": (put("input_mask", 3, 10, 0), "input_mask", 3),
    "mask after the end": (put("input_mask", 4, lambda row: length(row) + 2, 1), "input_mask", 4),
    "two in the mask": (put("input_mask", 3, 10, 2), "input_mask", 3),
    "minus one in the mask": (put("input_mask", 3, 10, -1), "input_mask", 3),
    "no tokens": (no_tokens, "input_mask", 3),
    "id after the end": (put("input_ids", 4, lambda row: end(row) + 1, 7), "input_ids", 4),
    "id of no token": (put("input_ids", 3, unmasked, VOCAB), "input_ids", 3),
    "negative id": (put("input_ids", 3, unmasked, -1), "input_ids", 3),
    "no [CLS]": (put("input_ids", 3, 0, 7), "special tokens", 3),
    "no last [SEP]": (put("input_ids", 4, end, 7), "special tokens", 4),
    "no first [SEP]": (put("input_ids", 3, first_sep, 7), "special tokens", 3),
    "a third [SEP]": (put("input_ids", 3, unmasked, SEP), "further special tokens", 3),
    "a second [CLS]": (put("input_ids", 3, unmasked, CLS), "further special tokens", 3),
    "[MASK] where nothing is masked": (put("input_ids", 3, unmasked, MASK), "further special tokens", 3),
    "segment two": (put("segment_ids", 3, S - 1, 2), "segment_ids", 3),
    "segment zero again": (put("segment_ids", 3, S - 1, 0), "segment_ids", 3),
    "segment after the end": (put("segment_ids", 4, lambda row: end(row) + 2, 1), "segment_ids", 4),
    "segments moved by one": (move_the_segments, "special tokens", 3),
    "one segment only": (one_segment_only, "segment_ids", 3),
    "gap in the positions": (gap_in_positions, "masked_lm_positions", 3),
    "position after the end": (
        put("masked_lm_positions", 4, lambda row: n_masked(row) - 1, lambda row: end(row) + 1),
        "masked_lm_positions",
        4,
    ),
    "position outside": (put("masked_lm_positions", 3, 9, S), "masked_lm_positions", 3),
    "negative position": (put("masked_lm_positions", 3, 1, -2), "masked_lm_positions", 3),
    "positions swapped": (swap_positions, "masked_lm_positions", 3),
    "position twice": (twice_the_same_position, "masked_lm_positions", 3),
    "[SEP] masked": (mask_the_sep, "masked_lm_positions", 3),
    "one masked too few": (without_last_mask, "masked_lm_positions", 3),
    "masked id of no token": (put("masked_lm_ids", 3, 0, VOCAB), "masked_lm_ids", 3),
    "masked id where none is": (put("masked_lm_ids", 4, n_masked, 7), "masked_lm_ids", 4),
    "label two": (
        lambda arrays: arrays["next_sentence_labels"].__setitem__(3, 2),
        "next_sentence_labels",
        3,
    ),
    "every masked word is kept": (masked_all_kept, "80/10/10 replacement", None),
    "every masked word is [MASK]": (masked_all_mask, "80/10/10 replacement", None),
    "no next sentence is random": (all_labels(0), "next-sentence balance", None),
    "every next sentence is random": (all_labels(1), "next-sentence balance", None),
    "a row twice": (repeated_row, "rows repeated", None),
}


@pytest.mark.parametrize("with_manifest", [True, False])
@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_caught_by_its_check_and_no_other(folder, vocab_file, kind, with_manifest):
    damage, check, row = DAMAGE[kind]
    arrays = make_rows(seed=1)
    damage(arrays)
    save(folder / "corpus_training_1.hdf5", arrays)
    if with_manifest:
        write_manifest(folder)
    report = run(folder, **({} if with_manifest else {"vocab_file": vocab_file}))
    found = by_name(report, check)
    assert failed(report) == [check]
    assert (found.status, found.first_file, found.first_row) == (FAILED, "corpus_training_1.hdf5", row)
    assert f"corpus_training_1.hdf5 fails the check '{check}'" in str(report.failure())
    assert "FAILED" in report.text()


FILE_DAMAGE = {
    "a dataset is missing": (lambda arrays: arrays.pop("segment_ids"), "datasets"),
    "floats": (lambda arrays: arrays.update(segment_ids=arrays["segment_ids"].astype("f4")), "datasets"),
    "narrower": (lambda arrays: arrays.update(input_ids=arrays["input_ids"][:, :60]), "datasets"),
    "fewer positions": (lambda arrays: arrays.update(masked_lm_ids=arrays["masked_lm_ids"][:, :9]), "datasets"),
    "flat ids": (lambda arrays: arrays.update(input_ids=arrays["input_ids"].reshape(-1)), "datasets"),
    "a column of labels": (
        lambda arrays: arrays.update(next_sentence_labels=arrays["next_sentence_labels"][:, None]),
        "datasets",
    ),
    "fewer labels": (
        lambda arrays: arrays.update(next_sentence_labels=arrays["next_sentence_labels"][:-1]),
        "datasets",
    ),
    "no rows": (lambda arrays: arrays.update({name: array[:0] for name, array in arrays.items()}), "datasets"),
}


@pytest.mark.parametrize("name", ["corpus_test_0.hdf5", "corpus_training_1.hdf5"])  # the first file, and a later one
@pytest.mark.parametrize("kind", FILE_DAMAGE)
def test_damaged_datasets(folder, vocab_file, kind, name):
    damage, check = FILE_DAMAGE[kind]
    arrays = make_rows(seed=7)
    damage(arrays)
    save(folder / name, arrays)
    report = run(folder, vocab_file=vocab_file)
    assert failed(report) == [check]
    assert by_name(report, check).first_file == name


def test_a_truncated_file(folder, vocab_file):
    path = folder / "corpus_training_1.hdf5"
    path.write_bytes(path.read_bytes()[:-1000])
    report = run(folder, vocab_file=vocab_file)
    assert failed(report) == ["datasets"]
    assert f"{path} fails the check 'datasets': it cannot be read as HDF5" in str(report.failure())


def test_damaged_compressed_data(folder, vocab_file):
    path = folder / "corpus_training_1.hdf5"
    with h5py.File(path) as file:
        chunk = file["input_ids"].id.get_chunk_info(0)
    data = bytearray(path.read_bytes())
    middle = chunk.byte_offset + chunk.size // 2
    data[middle : middle + 50] = bytes(50)
    path.write_bytes(data)
    assert failed(run(folder, vocab_file=vocab_file)) == ["readable"]


def test_a_byte_that_no_reader_notices_is_found_by_its_hash(folder):
    write_manifest(folder)
    with h5py.File(folder / "corpus_test_0.hdf5", "r+") as file:
        file.attrs["note"] = 1
    report = run(folder)
    assert failed(report) == ["size and hash"]
    assert by_name(report, "size and hash").first_file == "corpus_test_0.hdf5"


def test_a_changed_byte_of_the_same_size(folder):
    save(folder / "corpus_test_0.hdf5", make_rows(seed=2), chunks=None)
    write_manifest(folder)
    other = make_rows(seed=9)
    save(folder / "corpus_test_0.hdf5", other, chunks=None)
    assert failed(run(folder)) == ["size and hash"]


def test_a_lost_file_and_a_stranger(folder):
    write_manifest(folder)
    (folder / "corpus_training_1.hdf5").rename(folder / "other_training_1.hdf5")
    report = run(folder)
    assert failed(report) == ["files"]
    found = by_name(report, "files")
    assert (found.n_files, found.first_file) == (2, "corpus_training_1.hdf5")


def test_identical_shards_however_stored(folder, vocab_file):
    save(folder / "corpus_training_2.hdf5", {k: v.astype(np.int64) for k, v in make_rows(seed=1).items()})
    report = run(folder, vocab_file=vocab_file)
    assert failed(report) == ["rows repeated"]
    found = by_name(report, "rows repeated")
    assert found.first_file == "corpus_training_2.hdf5"
    assert found.n_rows > N_ROWS / 2  # all that are long enough
    assert "corpus_training_1.hdf5" in found.what


def test_rows_of_another_shard(folder, vocab_file):
    other = make_rows(seed=2)
    arrays = {name: np.concatenate([array[:40], make_rows(seed=1)[name][40:]]) for name, array in other.items()}
    save(folder / "corpus_training_1.hdf5", arrays)
    report = run(folder, vocab_file=vocab_file)
    found = by_name(report, "rows repeated")
    assert failed(report) == ["rows repeated"]
    assert found.first_file == "corpus_training_1.hdf5"
    assert "corpus_test_0.hdf5" in found.what
    n_long = int((other["input_mask"][:40].sum(axis=1) > 60).sum())  # those whose masks can hardly come again
    assert n_long <= found.n_rows <= 40


def test_the_same_text_with_other_masks_is_no_repetition(tmp_path, vocab_file):
    rng = random.Random(5)
    texts = [make_row(random.Random(seed)) for seed in range(40)]
    rows = []
    for text in texts:
        for _ in range(5):
            row = {name: value if isinstance(value, int) else list(value) for name, value in text.items()}
            ids = row["input_ids"]
            for place, label in zip(text["masked_lm_positions"], text["masked_lm_ids"], strict=True):
                if place:
                    ids[place] = label
            used = sum(map(bool, text["masked_lm_positions"]))
            words = [i for i, token in enumerate(ids) if token > MASK]
            places = sorted(rng.sample(words, min(used, len(words))))
            row["masked_lm_ids"] = [ids[i] for i in places] + [0] * (P - len(places))
            row["masked_lm_positions"] = places + [0] * (P - len(places))
            for i in places:
                fate = rng.random()
                ids[i] = MASK if fate < 0.8 else ids[i] if fate < 0.9 else rng.randrange(VOCAB)
            rows.append(row)
    save(tmp_path / "training.hdf5", {name: np.array([row[name] for row in rows]) for name in rows[0]})
    assert failed(run(tmp_path, vocab_file=vocab_file)) == []


def test_an_unfinished_folder(folder):
    (folder / "manifest.unfinished.jsonl").write_text("{}\n", encoding="utf-8")
    with pytest.raises(UserError, match="are unfinished; run --action create_hdf5_files to its end"):
        run(folder)


def test_another_vocabulary_than_the_manifests(folder, vocab_file):
    write_manifest(folder)
    with pytest.raises(UserError, match=f"{vocab_file} is not the vocabulary that the shards in .* were made with"):
        run(folder, vocab_file=vocab_file)


def test_whole_words_may_mask_fewer_but_not_more(folder):
    arrays = make_rows(seed=1)
    without_last_mask(arrays)
    save(folder / "corpus_training_1.hdf5", arrays)
    write_manifest(folder, whole_word_masking=True)
    assert failed(run(folder)) == []
    write_manifest(folder, whole_word_masking=True, masked_lm_prob=0.1)
    assert failed(run(folder)) == ["masked_lm_positions"]


def test_few_special_tokens_in_the_text_and_many_single_sentences_are_warnings(tmp_path, vocab_file):
    arrays = make_rows(n_rows=3000)
    arrays["input_ids"][3, unmasked({name: array[3] for name, array in arrays.items()})] = SEP
    arrays["next_sentence_labels"][:] = np.random.default_rng(0).random(3000) < 0.8
    save(tmp_path / "training.hdf5", arrays)
    report = run(tmp_path, vocab_file=vocab_file)
    assert {name: status for name, status in statuses(report).items() if status != OK} == {
        "further special tokens": WARNING,
        "next-sentence balance": WARNING,
    }
    assert report.failure() is None


@pytest.mark.parametrize(("value", "status"), [(1, FAILED), (0, FAILED), (None, OK)])
def test_files_too_small_to_tell_are_told_together(tmp_path, vocab_file, value, status):
    """12 rows each: of one file any share may be chance, of eight it is none."""
    for file in range(8):
        arrays = make_rows(n_rows=12, seed=file)
        if value is not None:
            arrays["next_sentence_labels"][:] = value
        save(tmp_path / f"training_{file}.hdf5", arrays)
        if file in (0, 7):
            check = by_name(run(tmp_path, vocab_file=vocab_file), "next-sentence balance")
            assert check.status == (status if file else OK)
    assert value is None or "with the others of its set" in check.what


@pytest.mark.parametrize(("n_unknown", "is_told"), [(1, False), (18, True)])  # words of the 295
@pytest.mark.parametrize("given", [True, False])
def test_unknown_tokens(folder, vocab_file, n_unknown, is_told, given):
    """The share is that of a plain count, with the vocabulary given or its [UNK] in the manifest."""
    number = words = 0
    for seed in (0, 1):
        arrays = make_rows(seed=seed)
        for name in ("input_ids", "masked_lm_ids"):
            arrays[name][(arrays[name] > MASK) & (arrays[name] <= MASK + n_unknown)] = UNK
        save(folder / f"corpus_training_{seed}.hdf5", arrays)
        for row, ids in enumerate(arrays["input_ids"].tolist()):
            for place, label in zip(arrays["masked_lm_positions"][row], arrays["masked_lm_ids"][row], strict=True):
                if place:
                    ids[place] = label
            number, words = number + ids.count(UNK), words + arrays["input_mask"][row].sum() - 3
    vocabulary = {"sha256": sha256_of(vocab_file), "size": VOCAB, "cls": CLS, "sep": SEP, "mask": MASK}
    write_manifest(folder, do_lower_case=False, vocabulary=vocabulary)
    if not given:
        manifest = Manifest.read(folder / "manifest.json")
        dataclasses.replace(manifest, facts={"unk": UNK}).write(folder / "manifest.json")
    report = run(folder, vocab_file=vocab_file if given else None)
    assert report.statistics["training"]["share of [UNK]"] == pytest.approx(number / words)
    check = by_name(report, "unknown tokens")
    assert (check.status, "give --do_lower_case" in check.what) == ((WARNING, True) if is_told else (OK, False))
    assert report.failure() is None


def test_nothing_to_verify(tmp_path, vocab_file):
    with pytest.raises(UserError, match=r"no shards \(\.hdf5, LDDL's \.parquet or \.txt\)"):
        run(tmp_path)
    (tmp_path / "a_training.hdf5").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"a_training\.hdf5 is no pre-training shard"):
        run(tmp_path, vocab_file=vocab_file)
