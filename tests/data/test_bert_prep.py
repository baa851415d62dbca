"""The command line of the data preparation: NVIDIA's flags and folders, and all errors in one list before any work."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
from corpora import tree, write_text_shard, write_vocab
from paths import ROOT

import data.stages
from common.errors import UserError, explain_os_error
from data.artifacts.layout import Layout
from data.bertPrep import main, read_settings
from data.corpus.sentences import splitter_name

REAL_CREATE = data.stages._create_shards
TWO_AND_ONE = ["--n_training_shards", "2", "--n_test_shards", "1"]


@pytest.fixture
def working_dir(tmp_path, monkeypatch):
    folder = tmp_path / "working dir"
    folder.mkdir()
    monkeypatch.setenv("BERT_PREP_WORKING_DIR", str(folder))
    return folder


def flags(action, dataset, *more):
    return ["--action", action, "--dataset", dataset, "--n_processes", "1", *map(str, more)]


def sentences_of(arguments):
    with pytest.raises(UserError) as raised:
        main(arguments)
    return raised.value.sentences


def test_all_wrong_flags_at_once_without_traceback(tmp_path):
    wrong = ["--n_training_shards", 0, "--n_test_shards", -1, "--fraction_test_set", 1.0, "--max_seq_length", 5]
    wrong += ["--masked_lm_prob", 0, "--dupe_factor", 0, "--random_seed", -3, "--max_predictions_per_seq", 0]
    wrong += ["--short_seq_prob", 2, "--n_processes", 0, "--vocab_file", tmp_path / "none.txt"]
    finished = subprocess.run(
        [sys.executable, ROOT / "data" / "bertPrep.py", *flags("create_hdf5_files", "bookscorpus", *wrong)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "BERT_PREP_WORKING_DIR": str(tmp_path / "new")},
    )
    assert finished.returncode == 2
    lines = finished.stderr.splitlines()
    assert all(line.startswith("error: ") for line in lines)
    wrong_flags = [str(word) for word in wrong if str(word).startswith("--")]
    for flag in wrong_flags:
        assert any(flag in line for line in lines), flag
    assert "none.txt" in finished.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (flags("download", "wikicorpus_en", "--source", "/no/such/dump"), ["/no/such/dump"]),
        (flags("download", "bookscorpus"), ["The books need --source"]),
        (flags("download", "books_wiki_en_corpus"), ["one corpus at a time"]),
        (flags("sharding", "squad"), ["--dataset squad is only downloaded"]),
        (flags("download", "bookscorpus", "--max_failed_share", 2), ["--max_failed_share 2.0", "--source"]),
        (flags("verify", "bookscorpus"), ["nothing to verify"]),
        (flags("text_formatting", "books_wiki_en_corpus"), ["one corpus at a time"]),
        (flags("create_hdf5_files", "bookscorpus"), ["--vocab_file"]),
        (flags("sharding", "bookscorpus", "--n_test_shards", 0), ["make both zero or neither"]),
        (flags("sharding", "bookscorpus", "--fraction_test_set", 0), ["make both zero or neither"]),
        (flags("text_formatting", "bookscorpus"), ["bookscorpus; run --action download"]),
        (flags("text_formatting", "wikicorpus_en"), ["wikicorpus_en.xml.bz2; get one"]),
        (flags("text_formatting", "wikicorpus_en", "--skip_wikiextractor"), ["leave --skip_wikiextractor out"]),
        (flags("sharding", "bookscorpus"), ["make it with --action text_formatting"]),
        (flags("sharding", "bookscorpus", "--input_files", "/no/such/file"), ["/no/such/file"]),
    ],
)
def test_one_sentence_per_problem_and_nothing_written(working_dir, arguments, words):
    sentences = sentences_of(arguments)
    assert len(sentences) == len(words)
    for word, sentence in zip(words, sentences, strict=True):
        assert word in sentence
    assert not tree(working_dir)


@pytest.mark.parametrize(
    "arguments", [["--action", "upload"], ["--dataset", "openwebtext"], ["--segmentation_method", "x"]]
)
def test_unknown_choices(working_dir, arguments):
    with pytest.raises(UserError, match="invalid choice"):
        main([*flags("sharding", "bookscorpus"), *arguments])


def test_folders_are_nvidias(working_dir, capsys):
    """Names that users' other tools rely on, letter for letter, defaults included."""

    def printed(*arguments):
        main([*flags(*arguments), "--print_output_dir"])
        return capsys.readouterr().out.strip()

    assert printed("download", "wikicorpus_en") == f"{working_dir}/download/wikicorpus_en"
    assert printed("text_formatting", "bookscorpus") == f"{working_dir}/formatted_one_article_per_line"
    shards = f"{working_dir}/sharded_training_shards_256_test_shards_256_fraction_0.2/wikicorpus_en"
    assert printed("sharding", "wikicorpus_en") == shards
    hdf5 = "hdf5_lower_case_1_seq_len_{}_max_pred_{}_masked_lm_prob_0.15_random_seed_12345_dupe_factor_5"
    for length, predictions in ((128, 20), (512, 80)):
        folder = f"{working_dir}/{hdf5.format(length, predictions)}/books_wiki_en_corpus"
        assert printed("create_hdf5_files", "books_wiki_en_corpus", "--max_seq_length", length) == folder
    assert not tree(working_dir)
    names = Layout(working_dir, "wikicorpus_en").shard_names(2, 1)
    assert names == ["wikicorpus_en_training_0", "wikicorpus_en_training_1", "wikicorpus_en_test_0"]


@pytest.fixture
def sharded(working_dir):
    """Three text shards as the sharding stage leaves them, and a vocabulary; returns the vocabulary."""
    folder = Layout(working_dir, "bookscorpus").sharded(2, 1, 0.2)
    folder.mkdir(parents=True)
    for index, name in enumerate(Layout(working_dir, "bookscorpus").shard_names(2, 1)):
        write_text_shard(folder / f"{name}.txt", n_documents=40, seed=index)
    return write_vocab(working_dir / "vocab.txt")


def hdf5_flags(vocab, *more):
    length = ["--max_seq_length", "64", "--max_predictions_per_seq", "10", "--dupe_factor", "2"]
    return [*flags("create_hdf5_files", "bookscorpus"), *TWO_AND_ONE, *length, "--vocab_file", str(vocab), *more]


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
def test_shards_do_not_depend_on_the_processes_and_differ(working_dir, sharded, capsys):
    outputs = []
    for n_processes in ("1", "2", "3"):
        main(hdf5_flags(sharded, "--n_processes", n_processes, "--overwrite"))
        (folder,) = working_dir.glob("hdf5_*")
        outputs.append(tree(folder))
    assert outputs[0] == outputs[1] == outputs[2]
    assert len(set(outputs[0].values())) == len(outputs[0]) == 3 + 1  # and a manifest
    made, counted = capsys.readouterr().out.splitlines()[-2:]
    assert "training instances in 3 shards in" in made
    assert "tokens of text 0.00% are [UNK]" in counted
    assert made.endswith(f"{folder}/bookscorpus")


def test_shards_of_the_same_text_differ(working_dir, sharded):
    """What made all of an ancestor's shards alike: one seed for all."""
    texts = sorted(Layout(working_dir, "bookscorpus").sharded(2, 1, 0.2).glob("*.txt"))
    for text in texts:
        text.write_bytes(texts[0].read_bytes())
    main(hdf5_flags(sharded))
    (folder,) = working_dir.glob("hdf5_*")
    assert len({file.read_bytes() for file in folder.rglob("*.hdf5")}) == 3


def test_missing_text_shards_are_named(working_dir, sharded):
    (sentence,) = sentences_of(hdf5_flags(sharded, "--n_training_shards", "3"))
    assert "There are no text shards in" in sentence
    assert "sharded_training_shards_3_test_shards_1_fraction_0.2" in sentence


def fewer_text_shards(working_dir):
    layout = Layout(working_dir, "bookscorpus")
    layout.sharded(1, 1, 0.2).mkdir(parents=True)
    for name in ("training_0", "test_0"):
        text = f"bookscorpus_{name}.txt"
        (layout.sharded(1, 1, 0.2) / text).write_bytes((layout.sharded(2, 1, 0.2) / text).read_bytes())


def test_shards_of_another_sharding_are_kept_or_all_replaced(working_dir, sharded):
    """Fewer shards than before would leave one of the old, of documents that may now be for testing."""
    main(hdf5_flags(sharded))
    fewer_text_shards(working_dir)
    before = tree(working_dir)
    (sentence,) = sentences_of(hdf5_flags(sharded, "--n_training_shards", "1"))
    assert "holds the create_hdf5_files of bookscorpus made from other input" in sentence
    assert tree(working_dir) == before
    main(hdf5_flags(sharded, "--n_training_shards", "1", "--overwrite"))
    names = [path.name for path in sorted(working_dir.glob("hdf5_*/bookscorpus/*"))]
    assert names == ["bookscorpus_test_0.hdf5", "bookscorpus_training_0.hdf5", "manifest.json"]


def test_finished_stages_are_skipped_and_what_is_damaged_is_made_again(working_dir, sharded, capsys):
    main(hdf5_flags(sharded))
    (folder,) = working_dir.glob("hdf5_*/bookscorpus")
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    main(hdf5_flags(sharded))
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert "create_hdf5_files of bookscorpus was finished before: 3 files" in capsys.readouterr().out
    damaged, lost = folder / "bookscorpus_training_0.hdf5", folder / "bookscorpus_training_1.hdf5"
    whole = tree(folder)
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    lost.unlink()
    main(hdf5_flags(sharded))
    assert tree(folder) == whole
    untouched = folder / "bookscorpus_test_0.hdf5"
    assert untouched.stat().st_mtime_ns == before[untouched]
    assert damaged.stat().st_mtime_ns != before[damaged]


def test_both_lengths_at_once_are_what_each_is_alone(working_dir, sharded):
    both = ["--max_seq_length", "64", "32", "--max_predictions_per_seq", "10", "5"]
    main([*hdf5_flags(sharded), *both])
    together = tree(working_dir)
    for folder in working_dir.glob("hdf5_*"):
        shutil.rmtree(folder)
    main(hdf5_flags(sharded))
    main([*hdf5_flags(sharded), "--max_seq_length", "32", "--max_predictions_per_seq", "5"])
    assert tree(working_dir) == together
    assert len(list(working_dir.glob("hdf5_*/bookscorpus/*.hdf5"))) == 6


def test_text_shards_are_found_without_their_numbers(working_dir, sharded):
    (working_dir / "mine.txt").write_text("".join(f"One {i}. Two {i}.\n" for i in range(20)), encoding="utf-8")
    sharding = [*flags("sharding", "wikicorpus_en"), "--input_files", str(working_dir / "mine.txt")]
    numbers = ["--n_training_shards", "3", "--n_test_shards", "2"]
    main([*sharding, *numbers])
    hdf5 = [*flags("create_hdf5_files", "wikicorpus_en", "--max_seq_length", 32), "--vocab_file", str(sharded)]
    main(hdf5)
    assert len(list(working_dir.glob("hdf5_*/wikicorpus_en/*.hdf5"))) == 5
    main([*sharding, "--n_training_shards", "2", "--n_test_shards", "2"])
    (sentence,) = sentences_of(hdf5)
    assert "2 sets of text shards of wikicorpus_en" in sentence
    main([*hdf5, *numbers])  # named, they are the ones that it was made from


def test_a_changed_text_shard_is_noticed_and_a_lost_one_before_anything_is_replaced(working_dir, sharded):
    (working_dir / "mine.txt").write_text("".join(f"One {i}. Two {i}.\n" for i in range(20)), encoding="utf-8")
    main([*flags("sharding", "wikicorpus_en"), *TWO_AND_ONE, "--input_files", str(working_dir / "mine.txt")])
    text = Layout(working_dir, "wikicorpus_en").sharded(2, 1, 0.2) / "wikicorpus_en_training_1.txt"
    text.write_bytes(text.read_bytes().replace(b"One", b"Uno", 1))
    hdf5 = [*flags("create_hdf5_files", "wikicorpus_en", "--max_seq_length", 32), "--vocab_file", str(sharded)]
    (sentence,) = sentences_of(hdf5)
    assert "wikicorpus_en_training_1.txt is not as it was written; run --action sharding again" in sentence
    text.unlink()
    before = tree(working_dir)
    (sentence,) = sentences_of([*hdf5, "--overwrite"])
    assert "wikicorpus_en_training_1.txt (1 of 3 are missing); run --action sharding again" in sentence
    assert tree(working_dir) == before


def test_what_the_command_line_says_of_the_rows_is_what_differs_from_the_defaults():
    def asked(*more):
        return read_settings(flags("verify", "bookscorpus", *more)).asked

    assert asked() == [{}]
    assert asked("--max_seq_length", "128", "512") == [{"max_seq_length": 128}, {"max_seq_length": 512}]
    given = ("--max_seq_length", "64", "--max_predictions_per_seq", "9", "--dupe_factor", "2", "--do_lower_case", "1")
    lengths = {"max_seq_length": 64, "max_predictions_per_seq": 9}
    assert asked(*given) == [{**lengths, "dupe_factor": 2, "do_lower_case": 1}]


def test_verify_passes_whole_shards_and_names_a_damaged_one(working_dir, sharded, capsys):
    main(hdf5_flags(sharded))
    report = working_dir / "report.json"
    main([*flags("verify", "bookscorpus"), "--report_file", str(report)])
    assert capsys.readouterr().out.splitlines()[-1].startswith("verified: ")
    assert [found["failed"] for found in json.loads(report.read_text(encoding="utf-8"))] == [False, False]
    (shard,) = working_dir.glob("hdf5_*/bookscorpus/bookscorpus_training_1.hdf5")
    shard.write_bytes(shard.read_bytes()[:1000])
    (sentence,) = sentences_of(flags("verify", "bookscorpus"))
    assert str(shard) in sentence
    main([*flags("verify", "bookscorpus"), "--input_files", str(Layout(working_dir, "bookscorpus").sharded(2, 1, 0.2))])


@pytest.mark.parametrize("more", [[], ["--compression", "lzf"], ["--compression", "none"], ["--whole_word_masking"]])
def test_every_kind_of_shard_verifies(working_dir, sharded, more):
    main([*hdf5_flags(sharded), *more])
    main(flags("verify", "bookscorpus"))
    (sentence,) = sentences_of([*hdf5_flags(sharded), *more, "--short_seq_prob", "0.3"])
    assert "made with short_seq_prob 0.1 where 0.3 is asked for" in sentence


def test_failing_shard_is_named_and_ends_the_stage(working_dir, sharded):
    folder = Layout(working_dir, "bookscorpus").sharded(2, 1, 0.2)
    (folder / "bookscorpus_training_1.txt").write_text("One document only.\n\n", encoding="utf-8")
    (sentence,) = sentences_of(hdf5_flags(sharded, "--n_processes", "2"))
    assert "bookscorpus_training_1.txt holds 1 document," in sentence


def test_own_files_can_be_sharded(working_dir, capsys):
    lines = [f"Document {i} begins. It goes on. It ends." for i in range(12)]
    (working_dir / "mine.txt").write_text("\n".join(lines), encoding="utf-8")
    main([*flags("sharding", "wikicorpus_en", "--input_files", working_dir / "mine.txt"), *TWO_AND_ONE])
    folder = Layout(working_dir, "wikicorpus_en").sharded(2, 1, 0.2)
    assert f"12 documents, 36 sentences by {splitter_name()}" in capsys.readouterr().out
    assert len(list(folder.glob("*.txt"))) == 3


def test_input_files_may_be_separated_by_commas(working_dir, capsys):
    """As NVIDIA's flag wants them; a name that has a comma is still one file."""
    for name in ("a.txt", "b.txt", "c,d.txt"):
        lines = [f"Document {i} of {name} begins. It ends." for i in range(4)]
        (working_dir / name).write_text("\n".join(lines), encoding="utf-8")
    files = [f"{working_dir}/a.txt,{working_dir}/b.txt", f"{working_dir}/c,d.txt"]
    main([*flags("sharding", "wikicorpus_en", "--input_files", *files), *TWO_AND_ONE])
    assert "12 documents, 24 sentences" in capsys.readouterr().out


def test_working_dir_that_cannot_be_written(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("", encoding="utf-8")
    (tmp_path / "a.txt").write_text("", encoding="utf-8")
    monkeypatch.setenv("BERT_PREP_WORKING_DIR", str(tmp_path / "file" / "new"))
    with pytest.raises(OSError, match="Not a directory") as raised:
        main(flags("download", "bookscorpus", "--source", tmp_path / "a.txt"))
    assert f"{tmp_path}/file/new cannot be used" in str(explain_os_error(raised.value))
    # Finding data needs no right to write.
    main(flags("download", "bookscorpus", "--source", tmp_path / "a.txt", "--print_output_dir"))
    assert capsys.readouterr().out.strip() == f"{tmp_path}/file/new/download/bookscorpus"


def test_vocabulary_is_checked_where_only_the_folder_is_asked_for(working_dir):
    (working_dir / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\nword\n", encoding="utf-8")
    (sentence,) = sentences_of(hdf5_flags(working_dir / "vocab.txt", "--print_output_dir"))
    assert "vocab.txt lacks [MASK]" in sentence


def kill_at_training_1(task, how):
    if task.text.stem.endswith("training_1"):
        os.kill(os.getpid(), signal.SIGKILL)
    return REAL_CREATE(task, how)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
def test_shard_of_a_killed_process_is_named_and_the_others_are_kept(working_dir, sharded, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("data.stages._create_shards", kill_at_training_1)
        (sentence,) = sentences_of(hdf5_flags(sharded, "--n_processes", "2"))
    assert "create_hdf5_files at work on" in sentence
    assert "bookscorpus_training_1" in sentence
    assert "smaller --n_processes" in sentence
    (journal,) = working_dir.glob("hdf5_*/bookscorpus/manifest.unfinished.jsonl")
    main(hdf5_flags(sharded))
    assert not journal.exists()


def test_help_explains(capsys):
    with pytest.raises(SystemExit) as raised:
        main(["--help"])
    assert raised.value.code == 0
    text = capsys.readouterr().out
    for flag in (
        *("--action", "--dataset", "--input_files", "--n_training_shards", "--n_test_shards", "--fraction_test_set"),
        *("--segmentation_method", "--n_processes", "--random_seed", "--dupe_factor", "--masked_lm_prob"),
        *("--max_seq_length", "--max_predictions_per_seq", "--do_lower_case", "--vocab_file", "--skip_wikiextractor"),
    ):
        assert flag in text
