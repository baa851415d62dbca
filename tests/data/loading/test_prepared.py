"""Finding the shards to train on, and holding them against their manifest."""

import json

import pytest
from shards import write_shards

from common.errors import Problems, UserError
from data.artifacts.manifest import FILE_NAME, JOURNAL_NAME, FileRecord, Manifest
from data.loading.prepared import find_prepared, prepared_shards, vocabulary_problem
from file_utils import sha256_of


def folder_name(length, predictions, dataset="wikicorpus_en", seed=12345):
    prob = f"masked_lm_prob_0.15_random_seed_{seed}_dupe_factor_5"
    return f"hdf5_lower_case_1_seq_len_{length}_max_pred_{predictions}_{prob}/{dataset}"


def write_manifest(folder, **vocabulary):
    outputs = {file.name: FileRecord.of(file) for file in sorted(folder.glob("*.hdf5"))}
    parameters = {"vocabulary": vocabulary} if vocabulary else {}
    Manifest("create_hdf5_files", "wikicorpus_en", parameters, {}, outputs).write(folder / FILE_NAME)


def problems_of(folder):
    problems = Problems()
    prepared_shards(folder, "training", problems)
    return [str(problem) for problem in problems.found]


def test_a_folder_of_shards_is_taken_as_it_is(tmp_path):
    assert find_prepared(write_shards(tmp_path / "any"), 128, 20, "whatever") == tmp_path / "any"


def test_the_working_folder_is_searched_for_lengths_and_dataset(tmp_path):
    for length, predictions in ((128, 20), (512, 80)):
        for dataset in ("wikicorpus_en", "bookscorpus"):
            write_shards(tmp_path / folder_name(length, predictions, dataset))
    assert find_prepared(tmp_path, 512, 80, "bookscorpus") == tmp_path / folder_name(512, 80, "bookscorpus")
    with pytest.raises(UserError, match=r"holds 2 sets of shards with seq_len_128_max_pred_20 .*books.*wiki"):
        find_prepared(tmp_path, 128, 20)
    with pytest.raises(UserError, match=r"no shards with seq_len_128_max_pred_80 .there: hdf5_lower.*create_datasets"):
        find_prepared(tmp_path, 128, 80)
    with pytest.raises(UserError, match="no shards of books_wiki_en_corpus with seq_len_128_max_pred_20"):
        find_prepared(tmp_path, 128, 20, "books_wiki_en_corpus")


def test_lddls_shards_lie_where_nvidias_example_puts_them(tmp_path):
    phases = {128: tmp_path / "pretrain/phase1/unbinned/parquet", 512: tmp_path / "pretrain/phase2/bin_size_64/parquet"}
    for folder in phases.values():
        folder.mkdir(parents=True)
    with pytest.raises(UserError, match="no hdf5_ folder"):
        find_prepared(tmp_path, 512, 80, "wikicorpus_en")
    (phases[128] / "shard-0.parquet").touch()
    (phases[512] / "shard-0.parquet_0").touch()
    for length, folder in phases.items():
        assert find_prepared(tmp_path, length, 20, "wikicorpus_en") == folder
        assert find_prepared(folder, length, 20) == folder
    with pytest.raises(
        UserError, match=r"there: pretrain/phase1/unbinned/parquet, pretrain/phase2/bin_size_64/parquet"
    ):
        find_prepared(tmp_path, 256, 40)
    ours = write_shards(tmp_path / folder_name(128, 20))
    assert find_prepared(tmp_path, 128, 20, "wikicorpus_en") == ours


def test_a_length_is_no_other_that_begins_like_it(tmp_path):
    write_shards(tmp_path / folder_name(128, 200))
    with pytest.raises(UserError, match=r"no shards with seq_len_128_max_pred_20 \("):
        find_prepared(tmp_path, 128, 20)


def test_nothing_there(tmp_path):
    with pytest.raises(UserError, match=r"no hdf5_ folder.*; .* make it with data/create_datasets_from_start.sh"):
        find_prepared(tmp_path, 128, 20)
    with pytest.raises(UserError, match="There is no data folder"):
        find_prepared(tmp_path / "none", 128, 20)


def test_shards_as_the_manifest_says_or_without_one_are_fine(tmp_path):
    folder = write_shards(tmp_path)
    assert problems_of(folder) == []
    write_manifest(folder)
    assert problems_of(folder) == []


def test_what_is_not_as_the_manifest_says(tmp_path):
    folder = write_shards(tmp_path, (30, 25, 20))
    write_manifest(folder)
    (folder / "sample_training_1.hdf5").unlink()
    (sentence,) = problems_of(folder)
    assert "sample_training_1.hdf5 is missing" in sentence
    assert "1 of 3 files" in sentence
    with open(folder / "sample_training_2.hdf5", "ab") as file:
        file.write(b"x")
    assert "2 of 3 files" in problems_of(folder)[0]
    write_shards(folder, (5,), name="training_more")
    assert "sample_training_more_0.hdf5 is not in manifest.json (1 such file)" in problems_of(folder)[1]


def test_an_unfinished_preparation_is_no_training_data(tmp_path):
    folder = write_shards(tmp_path)
    (folder / JOURNAL_NAME).write_text("", encoding="utf-8")
    assert problems_of(folder) == [f"The shards in {folder} are unfinished; run --action create_hdf5_files to its end."]
    write_manifest(folder)  # killed after the manifest and before the journal went
    assert problems_of(folder) == []


@pytest.mark.parametrize("text", ["{", "[]", json.dumps({"format_version": 1, "stage": "x"}), "null"])
def test_a_damaged_manifest_is_a_sentence(tmp_path, text):
    folder = write_shards(tmp_path)
    (folder / FILE_NAME).write_text(text, encoding="utf-8")
    (sentence,) = problems_of(folder)
    assert f"{folder / FILE_NAME} is no manifest" in sentence


def test_a_manifest_of_another_format_is_a_sentence(tmp_path):
    folder = write_shards(tmp_path)
    (folder / FILE_NAME).write_text(json.dumps({"format_version": 9}), encoding="utf-8")
    assert "is no manifest of format 1 (TypeError('format_version 9'))" in problems_of(folder)[0]


def test_the_vocabulary_must_be_the_one_of_the_shards(tmp_path):
    folder = write_shards(tmp_path / "shards")
    vocab, other = tmp_path / "vocab.txt", tmp_path / "other.txt"
    vocab.write_text("a\nb\n", encoding="utf-8")
    other.write_text("a\nc\n", encoding="utf-8")
    assert vocabulary_problem(folder, str(other), 1) is None  # nothing is known
    write_manifest(folder, sha256=sha256_of(vocab), size=2)
    assert vocabulary_problem(folder, str(vocab), 2) is None
    assert vocabulary_problem(folder, None, 8) is None
    assert vocabulary_problem(folder, None, 2 + 128) is None  # filled up
    assert "vocabulary of 2 tokens, and the model has 131" in str(vocabulary_problem(folder, None, 2 + 129))
    assert vocabulary_problem(folder, str(vocab), 1000) is None  # its user says that they belong together
    assert "other.txt is not the vocabulary that the shards" in str(vocabulary_problem(folder, str(other), 2))
    assert "vocabulary of 2 tokens, and the model has 1" in str(vocabulary_problem(folder, None, 1))
