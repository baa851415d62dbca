"""start_container.sh on machines that are made up: what it asks Docker for, and what it says when that cannot be."""

import csv
import os
import pty
import shutil
import subprocess

import pytest
from fake_docker import FakeMachine, errors, ids, values

RECIPE = "max_pred_20_masked_lm_prob_0.15_random_seed_12345_dupe_factor_5"
NVIDIA = '{"nvidia":{"path":"nvidia-container-runtime"},"runc":{"path":"runc"}}'


@pytest.fixture
def machine(tmp_path):
    made = FakeMachine(tmp_path)
    (made.folder / "data").mkdir()
    return made


def start(machine, *given, **variables):
    """The arguments of the `docker run` that it comes to, without those of the command, and what was printed."""
    ended = machine.run("start_container.sh", *given, "true", **variables)
    assert ended.returncode == 0, ended.stderr
    (arguments,) = machine.called("run")
    assert arguments[-2:] == ["tbd-bert-pytorch:latest", "true"]
    return arguments[:-2], ended.stderr


def mounts(arguments):
    """{where in the container: the host's folder}, as Docker reads them: fields of CSV."""
    fields = [dict(field.split("=", 1) for field in row) for row in csv.reader(values(arguments, "--mount"))]
    assert all(field["type"] == "bind" for field in fields)
    return {field["target"]: field["source"] for field in fields}


def test_start(machine):
    arguments, printed = start(machine, machine.folder / "data")
    data = machine.folder / "data"
    seen = mounts(arguments)
    assert seen["/workspace/bert"] == str(machine.project)
    assert seen["/workspace/dataset"] == str(data)
    assert seen["/workspace/bert/results"] == str(machine.project / "results")
    assert values(arguments, "--user") == [ids()]
    assert set(map(int, values(arguments, "--group-add"))) == {os.getgid(), *os.getgroups()}
    assert values(arguments, "--network") == ["host"]
    assert values(arguments, "--shm-size") == ["16g"]
    assert "memlock=-1" in values(arguments, "--ulimit")
    assert values(arguments, "--workdir") == ["/workspace/bert"]
    names = [given.partition("=")[0] for given in values(arguments, "--env")]
    assert sorted(names) == ["BERT_PREP_WORKING_DIR", "CHECK_ENVIRONMENT", "USER"]
    assert {"--privileged", "--cap-add", "--tty", "--gpus", "--name"}.isdisjoint(arguments)
    assert "nvidia-smi shows no GPU here" in printed
    assert "CPU only" in printed


def test_each_folder_of_the_dataset_is_in_data(machine):
    data = machine.folder / "data"
    other = "sharded_training_shards_4_test_shards_1_fraction_0.1"
    (data / other).mkdir()
    (data / "hdf5_not_a_folder").touch()
    seen = mounts(start(machine, data)[0])
    inside = {path: source for path, source in seen.items() if path.startswith("/workspace/bert/data/")}
    for name in ("download", "formatted_one_article_per_line", f"hdf5_lower_case_1_seq_len_128_{RECIPE}", other):
        assert inside[f"/workspace/bert/data/{name}"] == str(data / name)
    for path, source in inside.items():
        name = path.removeprefix("/workspace/bert/data/")
        assert source == str(data / name)
        assert (data / name).is_dir()
        # What is in the checkout is a place to mount at and nothing else.
        assert list((machine.project / "data" / name).iterdir()) == []


def test_the_recipes_folders_are_those_of_the_preparation(machine):
    """The names in the script are those that data/artifacts/layout.py makes of the script's defaults."""
    from data.artifacts.layout import BOTH, Layout
    from data.masked_lm.instances import InstanceOptions

    data = machine.folder / "data"
    layout = Layout(data, BOTH)
    lengths = [InstanceOptions(*length, 0.15, 0.1, 5) for length in ((128, 20), (512, 80))]
    made = [layout.hdf5(True, 12345, length) for length in lengths]
    made += [layout.sharded(256, 256, 0.2), layout.download, layout.extracted]
    seen = mounts(start(machine, data)[0])
    assert {str(path.parent) for path in made} <= set(seen.values())
    assert str(layout.formatted) in seen.values()


def test_containers_with_other_data_do_not_disturb(machine):
    for name in ("data", "other data"):
        (machine.folder / name).mkdir(exist_ok=True)
        assert machine.run("start_container.sh", machine.folder / name, "true").returncode == 0
    first, second = map(mounts, machine.called("run"))
    assert first.keys() == second.keys()
    differing = {path for path in first if first[path] != second[path]}
    assert differing == {path for path in first if "/data" in path}
    assert not any(path.is_symlink() for path in machine.project.rglob("*"))


@pytest.mark.parametrize("name", ["with space", 'with,comma and "quotes"', "with:colon", "ünïcode"])
def test_names_of_folders(machine, name):
    folder = machine.folder / name
    folder.mkdir()
    assert mounts(start(machine, folder)[0])["/workspace/dataset"] == str(folder)


@pytest.mark.parametrize(
    "name",
    ["hdf5_a,readonly", "hdf5_b,source=etc", 'sharded_"c"', "hdf5_d e", "hdf5_*", "hdf5_e:ro", "sharded_ü", "hdf5_'f'"],
)
def test_names_of_folders_add_no_options(machine, name):
    data = machine.folder / "data"
    (data / name).mkdir()
    arguments, _ = start(machine, data)
    assert mounts(arguments)[f"/workspace/bert/data/{name}"] == str(data / name)
    fields = [next(csv.reader([value], strict=True)) for value in values(arguments, "--mount")]
    assert {tuple(field.split("=")[0] for field in row) for row in fields} == {("type", "source", "target")}


def test_line_breaks_are_not_mounted(machine):
    (machine.folder / "data" / "hdf5_a\nb").mkdir()
    arguments, printed = start(machine, machine.folder / "data")
    assert "warning: the folder $'hdf5_a\\nb' of the dataset is left out" in printed
    assert not any("\n" in argument for argument in arguments)
    machine.calls.unlink()
    (machine.folder / "a\nb").mkdir()
    (sentence,) = errors(machine.run("start_container.sh", "a\nb", "true"))
    assert "a\\nb' has a control character, and Docker cannot mount it" in sentence


def test_relative_paths_and_links(machine):
    (machine.folder / "link").symlink_to(machine.folder / "data")
    for given in ("data", "./data/", "../" + machine.folder.name + "/data", "link"):
        machine.calls.unlink(missing_ok=True)
        arguments, _ = start(machine, given, cwd=machine.folder, CDPATH="/")
        assert mounts(arguments)["/workspace/dataset"] == str(machine.folder / "data")


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ([], "the dataset folder is not given; start: bash start_container.sh DATASET_FOLDER"),
        (["--unknown"], "--unknown is no folder, and the dataset folder is not given"),
        (["missing", "true"], "There is no folder 'missing'; make it (mkdir -p)"),
        (["", "true"], "There is no folder ''"),
        (["file", "true"], "'file' is a file; give the folder of the dataset."),
        (["data"], "There is no terminal for a shell; give a command"),
        (["data", "--profile"], "--profile is no command; --profile stands before the dataset folder"),
    ],
)
def test_wrong_arguments(machine, given, complaint):
    (machine.folder / "file").touch()
    sentences = errors(machine.run("start_container.sh", *given))
    assert complaint in sentences[0]
    assert all("terminal" in sentence for sentence in sentences[1:])  # no command was given either
    assert machine.called("run") == []


@pytest.mark.parametrize(
    ("variables", "complaint"),
    [
        ({"DAEMON": "Cannot connect to the Docker daemon. Is it running?"}, "sudo systemctl start docker"),
        ({"DAEMON": "dial unix /var/run/docker.sock: permission denied"}, "join the group docker"),
        ({"IMAGE_MISSING": "1"}, "There is no image tbd-bert-pytorch:latest; build it: bash build_image.sh"),
        ({"GPUS": "some"}, "GPUS is 'some'; set it to all, none, or numbers such as 0,1."),
        ({"SHM_SIZE": "plenty"}, "SHM_SIZE is 'plenty'"),
        ({"IMAGE": "--privileged"}, "IMAGE is '--privileged', which docker would read as an option"),
        ({"SUDO_UID": "0 --privileged"}, "SUDO_UID is '0 --privileged', which is no number"),
        ({"CHECK_ENVIRONMENT": "yes"}, "CHECK_ENVIRONMENT is 'yes'"),
        ({"RESULTS_DIR": "/dev/null/results"}, "/dev/null/results cannot be made; set RESULTS_DIR"),
    ],
)
def test_one_sentence_for_each_problem(machine, variables, complaint):
    (sentence,) = errors(machine.run("start_container.sh", "data", "true", **variables))
    assert complaint in sentence
    assert machine.called("run") == []


def test_a_project_without_a_place_for_results(machine):
    (machine.project / "results").touch()
    (sentence,) = errors(machine.run("start_container.sh", "data", "true", RESULTS_DIR="elsewhere"))
    assert f"{machine.project}/results, where RESULTS_DIR is mounted, cannot be made; have" in sentence


def test_all_problems_at_once(machine):
    (machine.bin / "docker").unlink()
    sentences = errors(machine.run("start_container.sh", "missing", "true", SHM_SIZE="0"))
    assert [sentence.split()[:3] for sentence in sentences] == [
        ["There", "is", "no"],
        ["SHM_SIZE", "is", "'0';"],
        ["There", "is", "no"],
    ]
    assert "docker" in sentences[2]


@pytest.mark.parametrize(("gpus", "option"), [("all", "all"), ("0,1", '"device=0,1"'), ("3", '"device=3"')])
def test_gpus(machine, gpus, option):
    arguments, printed = start(machine, "data", DRIVER="580.1", RUNTIMES=NVIDIA, GPUS=gpus)
    assert values(arguments, "--gpus") == [option]
    assert printed == ""


def test_hook_without_a_runtime_is_enough(machine):
    machine.command("nvidia-container-runtime-hook", "#!/bin/sh\n")
    assert values(start(machine, "data", DRIVER="580.1")[0], "--gpus") == ["all"]


def test_gpus_that_docker_cannot_reach(machine):
    arguments, printed = start(machine, "data", DRIVER="580.1")
    assert "--gpus" not in arguments
    assert "Docker has no NVIDIA runtime. The container will have the CPU only." in printed
    assert "nvidia-ctk runtime configure" in printed


def test_a_driver_that_fails(machine):
    arguments, printed = start(machine, "data", RUNTIMES=NVIDIA)
    assert "--gpus" not in arguments
    assert "nvidia-smi shows no GPU here" in printed


def test_no_gpus_wanted(machine):
    arguments, printed = start(machine, "data", DRIVER="580.1", RUNTIMES=NVIDIA, GPUS="none")
    assert "--gpus" not in arguments
    assert printed == ""


def test_profile(machine):
    arguments, _ = start(machine, "--profile", "data")
    assert values(arguments, "--cap-add") == ["SYS_ADMIN"]
    assert "PROFILING=1" in values(arguments, "--env")
    assert "--privileged" not in arguments


def test_docker_args_and_settings(machine):
    variables = {"DOCKER_ARGS": "--env=TOKEN\n--volume /a:/a", "SHM_SIZE": "2g", "CHECK_ENVIRONMENT": "0"}
    arguments, _ = start(machine, "data", RESULTS_DIR="my results", cwd=machine.folder, **variables)
    assert arguments[-3:] == ["--env=TOKEN", "--volume", "/a:/a"]
    assert values(arguments, "--shm-size") == ["2g"]
    assert "CHECK_ENVIRONMENT=0" in values(arguments, "--env")
    assert mounts(arguments)["/workspace/bert/results"] == str(machine.folder / "my results")


def test_nothing_secret_is_passed_on(machine):
    arguments, _ = start(machine, "data", AWS_SECRET_ACCESS_KEY="hidden", HTTPS_PROXY="http://hidden")
    assert not any("hidden" in given or "AWS" in given or "PROXY" in given for given in arguments)


def test_limits_that_docker_may_not_raise(machine):
    arguments, printed = start(machine, "data", LIMITS_REFUSED="125")
    assert "--ulimit" not in arguments
    assert "locked memory stays limited" in printed


def test_sudo_and_rootless(machine):
    arguments, _ = start(machine, "data", SUDO_UID=str(os.getuid()), SUDO_GID=str(os.getgid()), SUDO_USER="Jane")
    assert values(arguments, "--user") == [ids()]
    assert "USER=jane" in values(arguments, "--env")
    machine.calls.unlink()
    arguments, _ = start(machine, "data", SECURITY='["name=rootless"]')
    assert (values(arguments, "--user"), values(arguments, "--group-add")) == (["0:0"], [])


def test_groups_are_those_of_who_called_sudo(machine):
    (machine.bin / "id").unlink()
    machine.command("id", '#!/bin/sh\n[ "$*" = "-G -- jane" ] && echo 100 2001 || exec /usr/bin/env -i id "$@"\n')
    arguments, _ = start(machine, "data", SUDO_UID=str(os.getuid()), SUDO_GID=str(os.getgid()), SUDO_USER="jane")
    assert values(arguments, "--group-add") == ["100", "2001"]


def test_command_and_its_status(machine):
    ended = machine.run("start_container.sh", "data", "bash", "-c", "exit 'a b'", STATUS="42")
    assert ended.returncode == 42
    (arguments,) = machine.called("run")
    assert arguments[-4:] == ["tbd-bert-pytorch:latest", "bash", "-c", "exit 'a b'"]


def test_terminal(machine):
    master, slave = pty.openpty()
    command = [shutil.which("bash"), str(machine.project / "start_container.sh"), "data"]
    environment = machine.environment(TERM="dumb")
    subprocess.run(command, cwd=machine.folder, env=environment, stdin=slave, stdout=slave, stderr=slave, check=True)
    os.close(slave)
    os.close(master)
    (arguments,) = machine.called("run")
    assert {"--interactive", "--tty"} <= set(arguments)
    assert arguments[-1] == "tbd-bert-pytorch:latest"  # a shell, by the image's own command


@pytest.mark.skipif(os.getuid() == 0, reason="root may write to any folder")
def test_dataset_that_may_only_be_read(machine):
    data = machine.folder / "data"
    (data / "hdf5_mine").mkdir()
    data.chmod(0o555)
    try:
        arguments, printed = start(machine, data)
    finally:
        data.chmod(0o755)
    assert "may not be written by this user" in printed
    assert [path for path in mounts(arguments) if "/bert/data/" in path] == ["/workspace/bert/data/hdf5_mine"]


def test_help_changes_nothing(machine):
    shown = machine.run("start_container.sh", "--help", SHM_SIZE="3g")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "SHM_SIZE=3g" in shown.stdout
    assert not machine.calls.exists()
