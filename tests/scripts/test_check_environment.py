"""scripts/check_environment.sh on this machine, with commands and folders that are made up where it has none."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys

import lddl_shards
import phase1_runs
import pytest
import torch
from paths import ROOT
from script_runs import BIN, environment

from data.artifacts.manifest import FileRecord, Manifest
from scripts.check_environment import all_reduce_finding, conclusion, folder_finding, matrix_product_error, report
from scripts.data_checks import data_findings
from training.environment.machine_checks import OK, PROBLEM, WARNING, Finding

SCRIPT = ROOT / "scripts" / "check_environment.sh"
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(str, range(35))]


def check(folder, *arguments, **variables):
    """Status, output, and {check: finding} of what it wrote as JSON."""
    file = folder / "environment.json"
    command = ["bash", SCRIPT, "--json", file, *arguments]
    variables = {"BERT_PREP_WORKING_DIR": folder / "data", "OUTPUT_DIR": folder / "results", **variables}
    ended = subprocess.run(command, cwd=folder, env=environment(**variables), capture_output=True, text=True)
    written = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"findings": []}
    return ended, {finding["check"]: finding for finding in written["findings"]}, written


@pytest.fixture
def folder(tmp_path):
    """With data of phase 1 that its manifest describes, and commands in `bin`."""
    data = phase1_runs.make_data(tmp_path / "data")
    shards = data / phase1_runs.FOLDER / "books_wiki_en_corpus"
    outputs = {path.name: FileRecord.of(path, rows=7) for path in sorted(shards.glob("*.hdf5"))}
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    digest = hashlib.sha256(vocabulary.read_bytes()).hexdigest()
    parameters = {"vocabulary": {"sha256": digest, "size": len(VOCABULARY), "cls": 1, "sep": 2, "mask": 3}}
    Manifest("create_hdf5_files", "books_wiki_en_corpus", parameters, {}, outputs).write(shards / "manifest.json")
    (tmp_path / "bin").mkdir()
    return tmp_path


def with_commands(folder, **bodies):
    """The PATH with these commands before all others."""
    for name, body in bodies.items():
        path = folder / "bin" / name.replace("_", "-")
        path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
        path.chmod(0o755)
    return os.pathsep.join([str(folder / "bin"), str(BIN), os.environ["PATH"]])


def test_on_this_machine(folder):
    ended, findings, written = check(folder)
    assert ended.returncode == (0 if written["can_train"] else 1), ended.stderr
    assert written["can_train"] == all(finding["state"] != PROBLEM for finding in findings.values())
    if not torch.cuda.is_available():
        assert written["can_train"], ended.stdout
        assert findings["GPU"]["state"] == WARNING
        assert "Training can run on the CPU only" in ended.stdout.splitlines()[-1]
    assert findings["PyTorch"]["found"].startswith(f"torch {torch.__version__}")
    assert findings["shards, phase 1"]["state"] == OK
    assert "2 training files, 14 rows in all; sizes as in the manifest" in findings["shards, phase 1"]["found"]
    assert findings["shards, phase 2"]["state"] == WARNING
    for name, finding in findings.items():
        assert re.search(rf"^{re.escape(name)} +{finding['state']} ", ended.stdout, re.MULTILINE)
        assert bool(finding["remedy"]) == (finding["state"] != OK)
        assert finding["remedy"] in ended.stdout
    assert written["environment"]["torch"] == torch.__version__
    assert not (folder / "results").exists()


@pytest.mark.skipif(torch.version.cuda is not None, reason="the PyTorch here is one for GPUs")
def test_a_gpu_that_this_pytorch_cannot_use(folder):
    path = with_commands(
        folder,
        nvidia_smi="echo 'NVIDIA H200, 575.57.08'",
        ncu="exit 1",
    )
    ended, findings, written = check(folder, PATH=path)
    assert (ended.returncode, written["can_train"]) == (1, False)
    assert findings["GPU"]["found"] == "1 x NVIDIA H200"
    assert findings["PyTorch"]["state"] == PROBLEM
    assert findings["Nsight Compute"]["found"] == "ncu is on the PATH"
    assert ended.stdout.splitlines()[-1] == "Training cannot run here as it is (problems: 1)."


def test_with_nothing_installed_it_says_what_is_missing(folder):
    """-S: Python without any package."""
    file = folder / "environment.json"
    command = [sys.executable, "-S", ROOT / "scripts" / "check_environment.py", "--json", file]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    findings = {finding["check"]: finding for finding in json.loads(file.read_text(encoding="utf-8"))["findings"]}
    assert ended.returncode == 1, ended.stderr
    assert "torch is missing" in findings["packages"]["found"]
    assert findings["import of the training"]["state"] == PROBLEM
    assert findings["data"]["state"] == WARNING
    assert "results folder" in findings


def test_without_python_it_says_so(folder):
    for name in ("bash", "dirname", "pwd"):
        os.symlink(shutil.which(name) or "/bin/true", folder / "bin" / name)
    ended = subprocess.run(
        [folder / "bin" / "bash", SCRIPT], env={"PATH": str(folder / "bin")}, capture_output=True, text=True
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "error: There is no python3 on the PATH; install Python 3.11 to 3.14.\n"


# The data.


def shards_of(folder):
    return folder / "data" / phase1_runs.FOLDER / "books_wiki_en_corpus"


def data(folder, vocab_file=None, in_full=False):
    return {finding.check: finding for finding in data_findings(folder, vocab_file, in_full)}


def test_a_shard_of_another_size_is_a_problem(folder):
    with open(shards_of(folder) / "sample_training_1.hdf5", "ab") as file:
        file.write(b"x")
    finding = data(folder / "data")["shards, phase 1"]
    assert finding.state == PROBLEM
    assert "sample_training_1.hdf5 is missing or of another size" in finding.found
    assert "create_hdf5_files" in finding.remedy


def test_an_empty_folder_is_no_problem_and_one_that_is_not_there_is(folder):
    (folder / "empty").mkdir()
    findings = data(folder / "empty")
    assert findings["shards, phase 1"].state == findings["shards, phase 2"].state == WARNING
    assert f"bash {ROOT}/data/create_datasets_from_start.sh" in findings["shards, phase 1"].remedy
    (absent,) = data(folder / "absent").values()
    assert (absent.state, absent.found) == (PROBLEM, f"there is no folder {folder}/absent")


def test_a_folder_of_shards_is_taken_as_it_is(folder):
    findings = data(shards_of(folder))
    assert findings["shards, phase 1"].state == OK
    assert "shards, phase 2" not in findings
    (shards_of(folder) / "manifest.json").unlink()
    assert "no manifest to hold them against" in data(shards_of(folder))["shards, phase 1"].found


def test_a_folder_of_lddls_shards_is_looked_at_likewise(tmp_path):
    vocab_file = lddl_shards.write_vocabulary(tmp_path / "vocab.txt")
    written = lddl_shards.write_folder(tmp_path / "lddl", (60, 50), 64)
    assert data(tmp_path / "lddl")["shards"].state == OK
    assert "2 Parquet files, 110 rows in all; columns and" in data(tmp_path / "lddl", vocab_file)["shards"].found
    assert data(tmp_path / "lddl", vocab_file, in_full=True)["shards"].found.endswith("110 rows in all; verified")
    path, rows = next(iter(written.items()))
    lddl_shards.write_rows(path, [{**rows[0], "A": "Berlin"}, *rows[1:]])
    found = data(tmp_path / "lddl", vocab_file, in_full=True)["shards"]
    assert (found.state, "in row 0 it holds the token 'Berlin' in A" in found.found) == (PROBLEM, True)
    path.write_bytes(b"")
    assert "shard-0.parquet cannot be read as Parquet" in data(tmp_path / "lddl")["shards"].found


def test_unfinished_shards_are_a_problem(folder):
    (shards_of(folder) / "manifest.json").rename(shards_of(folder) / "manifest.unfinished.jsonl")
    assert "are unfinished" in data(folder / "data")["shards, phase 1"].found


def test_the_vocabulary_must_be_the_one_of_the_shards(folder):
    findings = data(folder / "data", folder / "vocab.txt")
    assert findings["vocabulary"].found == f"{folder}/vocab.txt: 40 tokens"
    assert findings["shards, phase 1"].state == OK
    other = folder / "other.txt"
    other.write_text("\n".join([*VOCABULARY, "more"]) + "\n", encoding="utf-8")
    assert f"{other} is not the vocabulary that the" in data(folder / "data", other)["shards, phase 1"].found
    assert data(folder / "data", folder / "absent.txt")["vocabulary"].state == PROBLEM
    downloaded = folder / "data" / "download" / "google_pretrained_weights" / "x" / "vocab.txt"
    downloaded.parent.mkdir(parents=True)
    shutil.copy(other, downloaded)  # other shards may have been made with it
    findings = data(folder / "data")
    assert (findings["vocabulary"].state, findings["shards, phase 1"].state) == (OK, OK)


def test_squad_is_looked_at_too(folder):
    squad = folder / "data" / "download" / "squad"
    assert data(folder / "data")["SQuAD"].state == WARNING
    (squad / "v1.1").mkdir(parents=True)
    (squad / "v1.1" / "dev-v1.1.json").write_text("{}", encoding="utf-8")
    assert data(folder / "data")["SQuAD"].found == f"1 file in {squad}"


# Parts.


def test_folders(tmp_path):
    (tmp_path / "file").touch()
    assert folder_finding("results folder", tmp_path / "a" / "b", 1, "x take").state == OK
    assert folder_finding("results folder", tmp_path / "file", 1, "x take").state == PROBLEM
    full = folder_finding("results folder", tmp_path, 2**60, "all of it takes")
    assert (full.state, full.remedy.endswith("all of it takes 1073741824 GiB.")) == (WARNING, True)
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]
    if os.path.isdir("/proc/self"):  # where not even root can write
        assert folder_finding("results folder", tmp_path.__class__("/proc/self"), 1, "x").state == PROBLEM
        assert folder_finding("data folder", tmp_path.__class__("/proc/self"), 1, "x").state == WARNING


def test_the_table_is_aligned_and_remedies_follow():
    findings = [Finding("a", "1"), Finding("a longer one", "word", WARNING, "Do this.")]
    assert report(findings).splitlines() == [
        "check         state    found",
        "a             ok       1",
        "a longer one  warning  word",
        "",
        "warning: a longer one: Do this.",
    ]


@pytest.mark.parametrize(
    ("states", "sentence"),
    [
        ([OK], "Training can run here (warnings: 0)."),
        ([OK, WARNING], "Training can run here (warnings: 1)."),
        ([PROBLEM, WARNING, PROBLEM], "Training cannot run here as it is (problems: 2)."),
    ],
)
def test_the_last_line(states, sentence):
    assert conclusion([Finding("x", "y", state) for state in states]) == sentence


@pytest.mark.slow
def test_where_it_is_asked_for_data_are_verified_and_two_processes_add_up(folder, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)  # without, torchrun has something to say on stderr
    ended, findings, _ = check(folder, "--verify_data", "--all_reduce", CUDA_VISIBLE_DEVICES="")
    found = findings["all-reduce"]["found"]
    assert re.fullmatch(r"2 processes added up 64 MB by gloo: right, [\d.]+ GB/s", found), ended.stdout
    assert (
        "fails the check 'masked_lm_positions'" in findings["shards, phase 1"]["found"]
    )  # the folder's masks are made up


@pytest.mark.slow
def test_processes_that_cannot_meet_are_a_problem(monkeypatch):
    """gloo is told of a network interface that is not there."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "absent0")
    finding = all_reduce_finding(0)
    assert finding.state == PROBLEM
    assert "absent0" in finding.found


def test_processes_that_are_killed_without_a_word_are_a_problem(monkeypatch):
    killed = subprocess.CompletedProcess([], -9, stdout="", stderr="")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: killed)
    finding = all_reduce_finding(0)
    assert (finding.state, finding.found) == (PROBLEM, "it ended with status -9 and said nothing")


@pytest.mark.gpu
def test_a_product_on_the_gpu_is_right():
    assert matrix_product_error(0) is None
