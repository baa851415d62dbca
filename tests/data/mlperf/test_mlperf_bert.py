"""data/mlperf_bert.py from stand-ins of the published files, in folders and on a server of this machine."""

import hashlib
import json

import h5py
import pytest
from http_servers import serve
from mlperf_files import CONFIG, PARTS, VOCABULARY, md5_list, published_at, stand_ins, write_folder
from naive_mlperf import nvidia_md5, shuffle_pairs
from paths import ROOT

import data.mlperf.stages
from common.errors import UserError
from data.artifacts.manifest import Manifest
from data.loading.pretraining_dataset import PretrainingDataset
from data.mlperf import published
from data.mlperf.published import PublishedFile, check_file, wanted_files
from data.mlperf.stages import EVALUATION_SHARD
from data.mlperf_bert import main

pytestmark = pytest.mark.usefixtures("no_waiting")


@pytest.fixture
def work(tmp_path, monkeypatch):
    """The folder that is filled."""
    monkeypatch.setenv("BERT_PREP_WORKING_DIR", str(tmp_path / "work"))
    return tmp_path / "work" / "mlperf_bert"


def prepare(*words, n_parts=2, stand_ins=True):
    main(["--parts", str(n_parts), "--n_processes", "1", *(["--stand_ins"] if stand_ins else []), *map(str, words)])


def publish(monkeypatch, files):
    """Stand-ins pass for the published files: their sums are taken for those of the benchmark."""
    sums = {path: (len(content), hashlib.md5(content).hexdigest()) for path, content in by_path(files).items()}
    monkeypatch.setattr(published, "SUMS", sums)
    return sums


def by_path(files):
    return {("text/" if name.startswith(("eval", "part")) else "") + name: content for name, content in files.items()}


def naive_evaluation(content):
    documents = [[line.split() for line in document.split("\n")] for document in content.decode().strip().split("\n\n")]
    examples = shuffle_pairs(documents, VOCABULARY, 512, 76)
    distance = len(examples) / 10_000
    return examples if distance < 1 else [examples[int(i * distance)] for i in range(10_000)]


def test_a_folder_becomes_evaluation_rows_and_training_shards(tmp_path, work, capsys):
    files = stand_ins()
    prepare("--files", write_folder(tmp_path / "mine", files))
    for path, content in by_path(files).items():
        assert (work / path).read_bytes() == content
    assert json.loads((work / "bert_config_tanh.json").read_text()) == {**CONFIG, "hidden_act": "gelu_new"}

    expected = naive_evaluation(files["eval.txt"])
    ids = [[VOCABULARY.index(token) for token in tokens] for tokens, *_ in expected]
    with h5py.File(work / "eval" / EVALUATION_SHARD) as shard:
        lengths = shard["input_mask"][:].sum(axis=1)
        assert [row[:n].tolist() for row, n in zip(shard["input_ids"], lengths, strict=True)] == ids
        labels = [[VOCABULARY.index(token) for token in row[3]] for row in expected]
        assert [row[row != 0].tolist() for row in shard["masked_lm_ids"]] == labels
        assert shard["next_sentence_labels"][:].tolist() == [row[4] for row in expected]
    printed = capsys.readouterr().out
    assert f"the checksum of the evaluation rows is {nvidia_md5(ids)}; of a stand-in text none is published" in printed
    assert "warning: the text gives no 10,000 examples, so all of them are taken" in printed
    assert f"verified: {work / 'eval'}, {work / 'training'}" in printed
    assert printed.endswith(f"to train on it: DATA_DIR={work} bash {ROOT / 'scripts' / 'run_mlperf_bert.sh'}\n")

    dataset = PretrainingDataset(work / "training", 4, 512, 76, num_workers=0)
    assert [file.name for file in dataset.files] == [f"{name}.hdf5" for name in PARTS]
    held_out = PretrainingDataset(work / "eval", 4, 512, 76, split="test", num_workers=0)
    assert held_out.n_samples == len(expected)
    manifest = Manifest.read(work / "training" / "manifest.json")
    wanted = {"max_seq_length": 512, "max_predictions_per_seq": 76, "dupe_factor": 10, "random_seed": 12345}
    assert wanted.items() <= manifest.parameters.items()


def test_started_again_it_does_nothing_and_more_parts_need_to_be_asked_for(tmp_path, work, capsys):
    mine = write_folder(tmp_path / "mine", stand_ins())
    prepare("--files", mine, n_parts=1)
    before = {path: path.stat().st_mtime_ns for path in work.rglob("*.hdf5")}
    capsys.readouterr()
    prepare("--files", mine, n_parts=1)
    assert capsys.readouterr().out.count("was finished before") == 2
    assert {path: path.stat().st_mtime_ns for path in work.rglob("*.hdf5")} == before
    with pytest.raises(UserError, match=r"training holds .* from other input than .*; add --overwrite to replace it"):
        prepare("--files", mine)
    prepare("--files", mine, "--overwrite")
    assert len(list((work / "training").glob("*.hdf5"))) == 2


def test_lines_that_end_as_in_windows_give_the_same_rows(tmp_path, work, monkeypatch):
    files = stand_ins()
    sums = []
    for name, end in (("unix", b"\n"), ("windows", b"\r\n")):
        monkeypatch.setenv("BERT_PREP_WORKING_DIR", str(tmp_path / name))
        changed = {
            each: content.replace(b"\n", end) if "part" in each or "eval" in each else content
            for each, content in files.items()
        }
        prepare("--files", write_folder(tmp_path / f"from_{name}", changed), n_parts=1)
        shards = sorted((tmp_path / name / "mlperf_bert").rglob("*.hdf5"))
        with h5py.File(shards[0]) as evaluation, h5py.File(shards[1]) as training:
            sums.append([evaluation["input_ids"][:].sum(), training["input_ids"][:].sum(), len(training["input_ids"])])
    assert sums[0] == sums[1]


def test_the_files_come_from_a_server_by_the_lists_beside_them(tmp_path, work, monkeypatch, capsys):
    files = stand_ins()
    publish(monkeypatch, files)
    with serve({}, break_after=3000) as server:  # the text comes in several pieces
        server.files = published_at(server, files)
        uris = [
            f"--{what}_uri={server.url}/metadata/{name}.uri"
            for what, name in (("checkpoint", "bert-input-files"), ("text", "bert-text"))
        ]
        prepare(*uris, stand_ins=False)
        assert any(request.status == 206 for request in server.requests)
        server.requests.clear()
        prepare(*uris, stand_ins=False)
        assert server.requests == []  # all is there
        (work / "text" / PARTS[1]).write_bytes(b"changed")
        prepare(*uris, stand_ins=False)
        assert {request.path for request in server.requests} == {
            "metadata/bert-text.uri",
            "metadata/bert-text.md5",
            f"text/set/deep/{PARTS[1]}",
        }
    assert not list(work.rglob(".*part*"))
    for path, content in by_path(files).items():
        assert (work / path).read_bytes() == content
    assert "warning: the checksum of the evaluation rows is" in capsys.readouterr().out  # none but NVIDIA's is right


def test_nvidias_checksum_is_said_to_be_met(tmp_path, work, monkeypatch, capsys):
    files = stand_ins()
    publish(monkeypatch, files)
    ids = [[VOCABULARY.index(token) for token in row[0]] for row in naive_evaluation(files["eval.txt"])]
    monkeypatch.setattr(data.mlperf.stages, "SUM_OF_EVALUATION_ROWS", nvidia_md5(ids))
    prepare("--files", write_folder(tmp_path / "mine", files), stand_ins=False)
    assert f"the evaluation rows are the published ones: their checksum is NVIDIA's, {nvidia_md5(ids)}" in (
        capsys.readouterr().out
    )


def problems_of(*words, **how):
    with pytest.raises(UserError) as raised:
        prepare(*words, **how)
    return [str(problem) for problem in raised.value.problems]


def test_everything_wrong_with_a_folder_is_said_at_once_before_any_work(tmp_path, work, monkeypatch):
    files = stand_ins()
    sums = publish(monkeypatch, files)
    wrong = {
        "vocab.txt": files["vocab.txt"] + b"more\n",
        "eval.txt": files["eval.txt"].replace(b"\n", b"\r\n"),
        PARTS[0]: b"",
        PARTS[1]: b"\x1f\x8b" + files[PARTS[1]],
        "model.ckpt-28252.index": b"AN index",
    }
    mine = write_folder(tmp_path / "mine", {**files, **wrong})
    found = problems_of("--files", mine, stand_ins=False)
    assert found == [
        f"{mine}/vocab.txt has {sums['vocab.txt'][0] + 5:,} bytes in place of {sums['vocab.txt'][0]:,}; get it again.",
        f"{mine}/results4/eval.txt has {len(wrong['eval.txt']):,} bytes in place of {len(files['eval.txt']):,}, and "
        "its lines end with CR LF, as after a transfer in text mode; get it again.",
        f"{mine}/results4/{PARTS[0]} is empty; get it again.",
        f"{mine}/results4/{PARTS[1]} is compressed (gzip), not the file itself; get it again.",
        f"{mine}/model.ckpt-28252.index has the MD5 {hashlib.md5(b'AN index').hexdigest()} in place of "
        f"{sums['model.ckpt-28252.index'][1]}; get it again.",
    ]
    assert not work.exists() or not list(work.iterdir())


def test_missing_files_are_one_sentence_that_knows_of_an_archive(tmp_path, work):
    files = stand_ins()
    mine = write_folder(tmp_path / "mine", {"vocab.txt": files["vocab.txt"]})
    (found,) = problems_of("--files", mine, n_parts=12)
    assert f"{mine} lacks bert_config.json, eval.txt, part-00000-of-00500 and 13 more files; put all files" in found
    (mine / "results_text.tar.gz").write_bytes(b"")
    assert "; unpack results_text.tar.gz there, or leave --files" in problems_of("--files", mine)[0]


def test_a_list_of_sums_in_the_folder_covers_parts_whose_sums_are_not_published(tmp_path, work):
    files = stand_ins()
    mine = write_folder(tmp_path / "mine", {**files, PARTS[1]: files[PARTS[1]] + b"word1\n"})
    (mine / "bert_reference_results_text_md5.txt").write_bytes(md5_list(files))
    (found,) = problems_of("--files", mine)
    assert f"{PARTS[1]} has the MD5" in found


@pytest.mark.parametrize(
    ("faults", "sentence"),
    [
        (
            {"html_page": True},
            "the server sent a web page instead of a .uri file, probably an error or login page; open the address in a",
        ),
        ({"always_status": 403}, "HTTP status 403; check the address and your credentials"),
    ],
)
def test_a_login_is_one_sentence(work, faults, sentence):
    with serve({"metadata/a.uri": b"https://there"}, **faults) as server:
        (found,) = problems_of(f"--checkpoint_uri={server.url}/metadata/a.uri")
    assert found.startswith(f"{server.url}/metadata/a.uri: {sentence}")


def test_a_server_without_a_file_or_with_another_one_leaves_nothing_behind(work, monkeypatch):
    files = stand_ins()
    publish(monkeypatch, files)
    with serve({}) as server:
        uris = [
            f"--{what}_uri={server.url}/metadata/{name}.uri"
            for what, name in (("checkpoint", "bert-input-files"), ("text", "bert-text"))
        ]
        server.files = published_at(server, {**files, "vocab.txt": b"another\n"})
        (found,) = problems_of(*uris, stand_ins=False)
        assert found.startswith(
            f"The list beside {server.url}/metadata/bert-input-files.uri has no vocab.txt with the MD5"
        )
        server.files = published_at(server, {name: files[name] for name in files if name != PARTS[0]})
        assert f"bert-text.uri has no {PARTS[0]}; download" in problems_of(*uris, stand_ins=False)[0]
        server.files = published_at(server, files)
        server.files[f"text/set/deep/{PARTS[1]}"] = b"<html><body>Log in</body></html>"
        (found,) = problems_of(*uris, stand_ins=False)
        assert f"{PARTS[1]}.part is a web page, not the file itself; start again to download {server.url}" in found
        server.files["metadata/bert-text.uri"] = b"moved\n"
        assert "bert-text.uri holds no address, so MLCommons may have moved the files" in problems_of(
            *uris, stand_ins=False)[0]  # fmt: skip
    assert not (work / "text" / PARTS[1]).exists()
    assert not list(work.rglob("*.part"))
    assert (work / "text" / PARTS[0]).exists()  # what was right stays


def test_of_both_formats_of_the_checkpoint_the_right_one_is_taken(tmp_path, work, monkeypatch):
    files = stand_ins()
    publish(monkeypatch, files)
    mine = write_folder(tmp_path / "mine", files)
    (mine / "atf2").mkdir()
    (mine / "model.ckpt-28252.index").rename(mine / "results4" / "model.ckpt-28252.index")
    (mine / "atf2" / "model.ckpt-28252.index").write_bytes(b"of TensorFlow 2")
    prepare("--files", mine, stand_ins=False)
    assert (work / "model.ckpt-28252.index").read_bytes() == b"an index"


@pytest.mark.parametrize("n_rows", [len(VOCABULARY) - 1, len(VOCABULARY) + 1000, None])
def test_a_vocabulary_of_another_size_is_refused_before_any_row_is_made(tmp_path, work, n_rows):
    files = {**stand_ins(), "bert_config.json": json.dumps({**CONFIG, "vocab_size": n_rows}).encode()}
    (found,) = problems_of("--files", write_folder(tmp_path / "mine", files))
    assert f"vocab.txt has {len(VOCABULARY)} tokens, and {work}/bert_config.json says vocab_size {n_rows};" in found
    assert not (work / "eval").exists()


def test_a_full_disk_leaves_no_evaluation_shard(tmp_path, work, monkeypatch):
    mine = write_folder(tmp_path / "mine", stand_ins())

    def full(path, *_):
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(data.mlperf.stages, "write_instances", full)
        with pytest.raises(OSError, match="No space left"):
            prepare("--files", mine, n_parts=1)
    assert not list(work.glob("*eval*"))
    prepare("--files", mine, n_parts=1)
    assert (work / "eval" / EVALUATION_SHARD).exists()


def test_wrong_flags_are_told_together(tmp_path, work):
    found = problems_of("--files", tmp_path / "nowhere", "--text_uri", "text.txt", n_parts=501)
    assert [sentence.split(";")[0] for sentence in found] == [
        "--parts 501 must lie in 1 to 500.",
        f"--files {tmp_path}/nowhere is no folder",
        "--text_uri text.txt is no address that ends with .uri",
    ]


def test_the_published_sums_are_of_files_that_are_wanted():
    files = {file.path: file for file in wanted_files(500, are_stand_ins=False)}
    assert len(files) == 505
    assert published.SUMS.keys() <= files.keys()
    assert all(len(md5) == 32 for _, md5 in published.SUMS.values())
    assert (files["text/part-00003-of-00500"].bytes, files["text/part-00003-of-00500"].md5) == (None, None)
    # The configuration's sum, from its values: two blanks, keys sorted, a final newline.
    values = dict.fromkeys(("attention_probs_dropout_prob", "hidden_dropout_prob"), 0.1)
    values |= {"hidden_act": "gelu", "hidden_size": 1024, "initializer_range": 0.02, "intermediate_size": 4096}
    values |= {"max_position_embeddings": 512, "num_attention_heads": 16, "num_hidden_layers": 24}
    text = json.dumps(values | {"type_vocab_size": 2, "vocab_size": 30522}, indent=2, sort_keys=True) + "\n"
    assert (len(text), hashlib.md5(text.encode()).hexdigest()) == published.SUMS["bert_config.json"]


def test_weights_may_begin_as_an_archive_does(tmp_path):
    path = tmp_path / "model.ckpt-28252.data-00000-of-00001"
    path.write_bytes(b"\x1f\x8b\x00")
    check_file(path, PublishedFile(path.name))
    path.write_bytes(bytes(100))
    with pytest.raises(UserError, match="has 100 bytes in place of 99"):
        check_file(path, PublishedFile(path.name, 99))
