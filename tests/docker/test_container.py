"""The image and its containers for real: built, started, and the commands of docs/container.md run by an ordinary user.

On a Docker engine of its own, with a stand-in for NVIDIA's base image and without apex, Nsight and punkt_tab, whose
sources are elsewhere on the internet. It takes minutes, so it runs in CI and where DOCKER_TESTS=1 asks for it.
"""

import json
import os
import re
import select
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from filelock import FileLock
from paths import ROOT
from script_runs import copy_tree

HERE = Path(__file__).resolve().parent
IN_CI = bool(os.environ.get("CI"))
BASE_IMAGE = "bert-test-base:3"  # another number where base_image.sh makes another one
USER_ID = 1000  # as the first user of most machines, and as the user of Ubuntu's images
GROUP_ID = 2000  # which no image has
SHARED_GROUP_ID = 3000  # of people who share data, as on clusters
# What this module runs as them: numbers that make an example of the page's commands.
PREPARATION = {
    "VOCAB_FILE": "/workspace/dataset/vocab.txt",
    "WIKI_SOURCE": "data/sample/wikicorpus_sample.xml.bz2",
    "BOOKS_SOURCE": "data/sample/books",
    "EXTRA_DOWNLOADS": "",
    "N_TRAINING_SHARDS": 4,
    "N_TEST_SHARDS": 1,
    "FRACTION_TEST_SET": 0.1,
}
SMALL = {"BERT_MODEL": "", "CONFIG_FILE": "/workspace/dataset/bert_config.json"}
PRETRAINING = SMALL | {
    **{f"PHASE{phase}_{name}_BATCH": batch for phase, batch in ((1, 16), (2, 4)) for name in ("GLOBAL", "MICRO")},
    "PHASE1_STEPS": 3,
    "PHASE2_STEPS": 2,
}
SQUAD = SMALL | {
    "INIT_CHECKPOINT": "results/pretraining/ckpt_5.pt",
    "VOCAB_FILE": "/workspace/dataset/vocab.txt",
    "SQUAD_VERSION": "2.0",
    "TRAIN_FILE": "data/sample/squad/train-v2.0.json",
    "PREDICT_FILE": "data/sample/squad/dev-v2.0.json",
    "GLOBAL_BATCH": 8,
    "MICRO_BATCH": 8,
    "MAX_STEPS": 2,
}
HDF5 = "hdf5_lower_case_1_seq_len_{}_masked_lm_prob_0.15_random_seed_12345_dupe_factor_5"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not IN_CI and os.environ.get("DOCKER_TESTS") != "1", reason="builds an image: DOCKER_TESTS=1"),
]


def as_root(script, *given, **variables):
    """Runs one of the scripts beside this file; without what it needs, fails in CI and skips elsewhere."""
    command = ["bash", HERE / script, *given]
    ended = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True)
    if ended.returncode != 0:
        said = (ended.stderr.strip().splitlines() or ["no reason given"])[-1]
        (pytest.fail if IN_CI else pytest.skip)(f"no Docker to test with: {said}")
    return ended.stdout.strip()


class User:
    """An ordinary user with a checkout of this project, who may talk to the tests' Docker engine."""

    def __init__(self, folder, docker_host):
        self.folder = folder
        self.project = folder / "bert"
        self.data = folder / "data set"
        self.docker_host = docker_host
        self.environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "DOCKER_HOST": docker_host}

    def command(self, line, data):
        """The words of a command of the page, run by this user."""
        groups = os.stat(self.docker_host.removeprefix("unix://")).st_gid
        words = [str(data) if word == "DATASET_FOLDER" else word for word in line.split()]
        user = ["setpriv", f"--reuid={USER_ID}", f"--regid={GROUP_ID}", f"--groups={groups},{SHARED_GROUP_ID}"]
        return [*user, *words]

    def run(self, line, data=None, inside=None, **variables):
        """Runs it to its end; `inside` is set in the container."""
        given = "".join(f" --env={name}={value}" for name, value in (inside or {}).items())
        environment = self.environment | {"DOCKER_ARGS": given, "CHECK_ENVIRONMENT": "0"} | variables
        command = self.command(line, data or self.data)
        return subprocess.run(
            command, cwd=self.project, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )

    def succeed(self, line, data=None, inside=None, **variables):
        """Runs it, and returns its output."""
        ended = self.run(line, data, inside, **variables)
        assert ended.returncode == 0, f"{line}\n{ended.stdout[-3000:]}\n{ended.stderr[-3000:]}"
        return ended.stdout


@pytest.fixture(scope="module")
def user():
    """With a built image. Other processes of the tests wait, and then find it built."""
    if os.getuid() != 0:
        (pytest.fail if IN_CI else pytest.skip)("only root can start a Docker engine")
    folder = Path(tempfile.mkdtemp(prefix="bert-container-"))
    folder.chmod(0o755)
    with FileLock(Path(tempfile.gettempdir(), "bert-docker-tests.lock")):
        docker_host = as_root("engine.sh").splitlines()[-1]
        as_root("base_image.sh", BASE_IMAGE, DOCKER_HOST=docker_host)
        made = User(folder, docker_host)
        copy_tree(made.project)
        made.data.mkdir()
        for path in (folder, *folder.rglob("*")):
            os.chown(path, USER_ID, GROUP_ID, follow_symlinks=False)
        made.built = build(made)
    yield made
    shutil.rmtree(folder)


def build(user):
    """build_image.sh, with this machine's proxies, certificates and package index."""
    passed = ("_PROXY", "_proxy", "PIP_", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
    ours = {name: value for name, value in os.environ.items() if any(part in name for part in passed)}
    without = dict.fromkeys(("WITH_APEX", "WITH_NSIGHT", "WITH_PUNKT"), "0")
    if not Path(ours.get("PIP_FIND_LINKS", "/nowhere")).is_dir():
        without["TORCH_INDEX_URL"] = "https://download.pytorch.org/whl/cpu"
    return user.succeed("bash build_image.sh --network host", **ours, **without, BASE_IMAGE=BASE_IMAGE, DISK_GB="8")


def section():
    """The commands of docs/container.md that are shown first."""
    text = (ROOT / "docs" / "container.md").read_text(encoding="utf-8")
    (found,) = re.findall(r"^## In short$(.*?)^## ", text, re.MULTILINE | re.DOTALL)
    return [line for block in re.findall(r"```sh\n(.*?)```", found, re.DOTALL) for line in block.splitlines()]


def test_the_commands_in_short(user):
    """Each command of the section, from the image to the second start on the same data."""
    left = section()

    def take(ending):
        (line,) = [line for line in left if line.endswith(ending)]
        left.remove(line)
        return line

    take("bash build_image.sh")  # done by the fixture
    assert user.built.splitlines()[-1].startswith("Image: tbd-bert-pytorch:latest.")
    prepare = "bash start_container.sh DATASET_FOLDER " + take("bash data/create_datasets_from_start.sh")
    make_vocabulary(user)
    printed = user.succeed(prepare.replace(" data/", " /workspace/bert/data/"), inside=PREPARATION)
    assert "The shards of both phases are ready" in printed
    check_data(user)

    start = "bash start_container.sh DATASET_FOLDER"
    printed = user.succeed(f"{start} " + take(" scripts/run_pretraining.sh"), inside=PRETRAINING)
    assert "Results: /workspace/bert/results/pretraining" in printed
    user.succeed(f"{start} " + take(" scripts/run_squad.sh"), inside=SQUAD)
    assert {path.name for path in (user.project / "results").iterdir()} == {"pretraining", "squad"}
    assert (user.project / "results" / "pretraining" / "ckpt_5.pt").stat().st_size > 1e6
    check_owner(user)

    table = user.succeed(take("DATASET_FOLDER bash scripts/check_environment.sh"))
    assert re.search(r"^shards, phase 2 +ok ", table, re.MULTILINE)
    assert "Training can run on the CPU only" in table
    assert "--gradient_accumulation_steps" in user.succeed(take("run_pretraining.py --help"))

    before = {path: path.stat().st_mtime_ns for path in user.data.rglob("*.hdf5")}
    assert len(before) == 10
    again = user.succeed(prepare, inside=PREPARATION)
    assert "The shards of both phases are ready" in again
    assert {path: path.stat().st_mtime_ns for path in user.data.rglob("*.hdf5")} == before
    shards = user.succeed(f"{start} ls data/sharded_training_shards_4_test_shards_1_fraction_0.1/books_wiki_en_corpus")
    assert "books_wiki_en_corpus_training_3.txt" in shards

    prompt = terminal_session(user, take(start))
    name = subprocess.check_output(["id", "-un", str(USER_ID)], text=True).strip() if has_name() else "bert"
    assert prompt == f"(bert_pytorch) {name}@{socket.gethostname().partition('.')[0]}:/workspace/bert$ "
    assert left == []


def has_name():
    """Whether this machine knows the user."""
    return subprocess.run(["id", str(USER_ID)], capture_output=True, check=False).returncode == 0


def make_vocabulary(user):
    """A vocabulary of the sample, and a tiny model with it, in the dataset folder."""
    line = "bash start_container.sh DATASET_FOLDER python3 data/train_vocab.py --vocab_size 2000"
    user.succeed(f"{line} --vocab_file /workspace/dataset/vocab.txt --input_files data/sample/books")
    shape = json.loads((ROOT / "bert_configs" / "tiny.json").read_text(encoding="utf-8"))
    shape["vocab_size"] = len((user.data / "vocab.txt").read_text(encoding="utf-8").splitlines())
    file = user.data / "bert_config.json"
    file.write_text(json.dumps(shape), encoding="utf-8")
    os.chown(file, USER_ID, GROUP_ID)


def check_data(user):
    """The shards are in the host's dataset folder and, in a container, beside the scripts; the checkout has no more."""
    for phase in ("128_max_pred_20", "512_max_pred_80"):
        folder = f"{HDF5.format(phase)}/books_wiki_en_corpus"
        shard = "books_wiki_en_corpus_training_0.hdf5"
        assert (user.data / folder / shard).stat().st_size > 1000
        places = " ".join(f"{parent}/{folder}/{shard}" for parent in ("data", "/workspace/dataset"))
        line = f"bash start_container.sh DATASET_FOLDER sha256sum {places}"
        sums = [line.split()[0] for line in user.succeed(line).splitlines()]
        assert sums[0] == sums[1]
        assert list((user.project / "data" / HDF5.format(phase)).iterdir()) == []


def check_owner(user):
    """All files that containers wrote are the user's."""
    written = [*user.data.rglob("*"), *(user.project / "results").rglob("*")]
    assert len(written) > 20
    assert {(path.stat().st_uid, path.stat().st_gid) for path in written} == {(USER_ID, GROUP_ID)}


def terminal_session(user, line):
    """The prompt of a shell in a container, at a terminal; the shell's exit code must come back."""
    master, slave = os.openpty()
    environment = user.environment | {"TERM": "dumb", "CHECK_ENVIRONMENT": "0"}
    shell = subprocess.Popen(
        user.command(line, user.data), cwd=user.project, env=environment, stdin=slave, stdout=slave, stderr=slave,
        start_new_session=True,
    )  # fmt: skip
    os.close(slave)
    seen, ends = "", time.monotonic() + 300
    while not re.search(r"\$ $", seen):
        ready, _, _ = select.select([master], [], [], 1.0)
        assert time.monotonic() < ends, f"no prompt: {seen}"
        seen += os.read(master, 4096).decode() if ready else ""
    os.write(master, b"exit 7\n")
    assert shell.wait(timeout=300) == 7
    os.close(master)
    return re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]", "", seen).splitlines()[-1]


def test_inside(user):
    """Who one is in a container, what is seen there, and what is not."""
    start = "bash start_container.sh DATASET_FOLDER"
    data = user.folder / "other"
    data.mkdir()
    os.chown(data, USER_ID, GROUP_ID)
    assert "create_datasets_from_start.sh" in user.succeed(f"{start} ls data", data)
    status = user.succeed(f"{start} cat /proc/self/status", data)
    assert re.search(rf"^Uid:\t{USER_ID}\t", status, re.MULTILINE)
    assert re.search(rf"^Gid:\t{GROUP_ID}\t", status, re.MULTILINE)
    variables = dict(
        line.partition("=")[::2] for line in user.succeed(f"{start} env", data, SECRET_TOKEN="hidden").splitlines()
    )
    assert "SECRET_TOKEN" not in variables
    assert variables["VIRTUAL_ENV"] == "/opt/bert_pytorch"
    assert variables["BERT_PREP_WORKING_DIR"] == "/workspace/dataset"
    assert variables["HOME"].startswith("/home/")
    # An installer's ncu goes before the one that NVIDIA's images have there.
    folders = variables["PATH"].split(":")
    assert "/usr/local/bin" in folders[folders.index("/opt/nsight-compute") :]
    assert user.run(f"{start} /bin/false", data).returncode == 1
    assert "16G" in user.succeed(f"{start} df -h /dev/shm", data)

    # Edits are seen on both sides.
    (user.project / "mine.py").write_text("print('edited')\n", encoding="utf-8")
    assert user.succeed(f"{start} python3 mine.py", data) == "edited\n"
    user.succeed(f"{start} cp mine.py /workspace/bert/made_inside.py", data)
    assert (user.project / "made_inside.py").read_text(encoding="utf-8") == "print('edited')\n"

    # What the user may read as one of a group.
    shared = data / "shared"
    shared.write_text("for the group", encoding="utf-8")
    os.chown(shared, 0, SHARED_GROUP_ID)
    shared.chmod(0o040)
    assert user.succeed(f"{start} cat /workspace/dataset/shared", data) == "for the group"

    # A login shell has the same Python; root, whom Ubuntu gives a prompt, the same prompt.
    (user.project / "login.sh").write_text("command -v python3\n", encoding="utf-8")
    assert user.succeed(f"{start} bash -l login.sh", data) == "/opt/bert_pytorch/bin/python3\n"
    (user.project / "prompt.sh").write_text('echo "$PS1"\n', encoding="utf-8")
    for option in ("", "--user=0:0"):
        prompt = user.succeed(f"{start} bash -i prompt.sh", data, DOCKER_ARGS=option)
        assert prompt.startswith("(bert_pytorch) ")

    # Only --profile gives the right to read counters, which is bit 21, and gives it to an ordinary user.
    capabilities = "grep CapEff /proc/self/status"
    assert user.succeed(f"{start} {capabilities}", data).split()[1] == "0" * 16
    profiling = user.succeed(f"bash start_container.sh --profile DATASET_FOLDER {capabilities}", data)
    assert int(profiling.split()[1], 16) == 1 << 21

    ended = user.run(f"{start} /bin/true", data, CHECK_ENVIRONMENT="1")
    assert (ended.returncode, ended.stdout) == (0, "")
    assert "Training can run on the CPU only" in ended.stderr


def test_several_side_by_side(user):
    """One on the same data, whose work is seen at once, and one on other data."""
    other = user.folder / "elsewhere"
    other.mkdir()
    os.chown(other, USER_ID, GROUP_ID)
    (user.project / "wait.sh").write_text(
        "touch data/download/begun; until [ -e data/download/end ]; do sleep 0.1; done\n", encoding="utf-8"
    )
    start = "bash start_container.sh DATASET_FOLDER"
    environment = user.environment | {"CHECK_ENVIRONMENT": "0"}
    command = user.command(f"{start} timeout 300 bash wait.sh", user.data)
    with subprocess.Popen(command, cwd=user.project, env=environment, stdin=subprocess.DEVNULL) as first:
        while not (user.data / "download" / "begun").exists():
            assert first.poll() is None
            time.sleep(0.1)
        assert user.succeed(f"{start} ls -A data/download", other) == ""
        user.succeed(f"{start} touch data/download/end")
        assert first.wait(timeout=300) == 0


def test_a_signal_reaches_the_command(user):
    """As when a scheduler ends a job: training saves then, and its exit code asks to be started again."""
    (user.project / "signalled.sh").write_text(
        "trap 'exit 75' TERM; touch results/ready; while true; do sleep 0.1; done\n", encoding="utf-8"
    )
    command = user.command("bash start_container.sh DATASET_FOLDER timeout 300 bash signalled.sh", user.data)
    environment = user.environment | {"CHECK_ENVIRONMENT": "0"}
    with subprocess.Popen(command, cwd=user.project, env=environment, stdin=subprocess.DEVNULL) as started:
        while not (user.project / "results" / "ready").exists():
            assert started.poll() is None
            time.sleep(0.1)
        started.terminate()
        assert started.wait(timeout=300) == 75


def test_editing_code_rebuilds_nothing(user):
    docker = ["docker", "image", "inspect", "--format", "{{.Id}}", "tbd-bert-pytorch:latest"]
    before = subprocess.check_output(docker, env=user.environment, text=True)
    with open(user.project / "modeling.py", "a", encoding="utf-8") as file:
        file.write("# edited\n")
    build(user)
    assert subprocess.check_output(docker, env=user.environment, text=True) == before
