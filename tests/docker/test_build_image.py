"""build_image.sh on machines that are made up, and what the steps of the image say when they cannot do their work."""

import importlib.util
import os
import re
import shutil
import subprocess

import pytest
import requests
from fake_docker import NVIDIA_SMI, ROOT, FakeMachine, errors, values


@pytest.fixture
def machine(tmp_path):
    return FakeMachine(tmp_path)


def build(machine, *given, **variables):
    """The arguments of the `docker build` that it comes to, and all that was printed."""
    ended = machine.run("build_image.sh", *given, **variables)
    assert ended.returncode == 0, ended.stderr
    (arguments,) = machine.called("build")
    return arguments, ended.stdout


def test_build(machine):
    arguments, printed = build(machine, "--no-cache", "--network", "host", cwd=machine.bin)
    assert values(arguments, "--tag") == ["tbd-bert-pytorch:latest"]
    assert values(arguments, "--file") == [str(machine.project / "docker" / "Dockerfile")]
    assert arguments[-4:] == ["--no-cache", "--network", "host", str(machine.project)]
    given = dict(argument.split("=", 1) for argument in values(arguments, "--build-arg"))
    assert (given["USER_ID"], given["GROUP_ID"]) == (str(os.getuid()), str(os.getgid()))
    assert (given["WITH_APEX"], given["WITH_NSIGHT"], given["WITH_PUNKT"]) == ("1", "1", "1")
    assert "9.0" in given["TORCH_CUDA_ARCH_LIST"].split(";")
    assert "BASE_IMAGE" not in given
    assert (
        printed.splitlines()[-1] == "Image: tbd-bert-pytorch:latest. Start it: bash start_container.sh DATASET_FOLDER"
    )


def test_all_arguments_are_known_to_the_dockerfile(machine):
    proxy = {"HTTPS_PROXY": "http://proxy", "PIP_INDEX_URL": "http://index", "PIP_FIND_LINKS": "http://links"}
    settings = {"CUDA_VARIANT": "cu126", "BUILD_JOBS": "2", "APEX_COMMIT": "abc", "TORCH_INDEX_URL": "http://torch"}
    arguments, _ = build(machine, **proxy, **settings)
    known = set(re.findall(r"^ARG (\w+)", (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE))
    given = {argument.partition("=")[0] for argument in values(arguments, "--build-arg")}
    assert given - known == {"HTTPS_PROXY"}  # Docker knows this one by itself
    assert {"APEX_COMMIT", "BUILD_JOBS", "TORCH_INDEX_URL", "BASE_IMAGE", "PIP_FIND_LINKS"} <= given


def test_passwords_of_indexes_are_not_among_the_arguments(machine):
    address = "https://user:PASSWORD@index/simple?token=TOKEN"
    variables = {"TORCH_INDEX_URL": address, "PIP_INDEX_URL": address, "HTTPS_PROXY": address}
    arguments, printed = build(machine, **variables)
    assert {*variables} <= set(values(arguments, "--build-arg"))
    shown = machine.run("build_image.sh", "--help", **variables).stdout
    assert "TORCH_INDEX_URL=https://index/simple\n" in shown
    assert not any(secret in text for secret in ("PASSWORD", "TOKEN") for text in (str(arguments), printed, shown))


def test_code_in_numbers_is_not_run(machine):
    code = f"BASH_VERSINFO[$(touch {machine.folder}/ran)]"
    ended = machine.run("build_image.sh", DISK_GB=code, BUILD_JOBS=code, SUDO_UID=code, FREE_GB=code)
    assert [sentence.split()[0] for sentence in errors(ended)] == ["SUDO_UID", "BUILD_JOBS", "DISK_GB"]
    (machine.bin / "touch").symlink_to(shutil.which("touch"))
    assert step(machine, "add_user.sh", "me", code, "1000").returncode == 1
    assert not (machine.folder / "ran").exists()


def test_a_machine_of_very_many_gpus(machine):
    """More lines than a pipe holds: whoever stops reading after the first would kill the one that writes."""
    machine.command("nvidia-smi", NVIDIA_SMI.replace('echo "$DRIVER"; echo "$DRIVER"', 'yes "$DRIVER" | head -n 9999'))
    (machine.bin / "yes").symlink_to(shutil.which("yes"))
    _, printed = build(machine, DRIVER="580.65.06", CAPABILITIES="9.0")
    assert "Driver 580.65.06, GPUs of compute capability 9.0: building" in printed


def test_help_changes_nothing(machine):
    shown = machine.run("build_image.sh", "--help", WITH_APEX="0")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "WITH_APEX=0" in shown.stdout
    assert machine.called("info") == []


@pytest.mark.parametrize(
    ("driver", "capabilities", "asked", "variant"),
    [
        ("580.65.06", "9.0 9.0", "", "cu130"),
        ("595.10", "7.5", "", "cu130"),
        ("580.65.06", "7.0 9.0", "", "cu126"),  # CUDA 13 has left Volta out
        ("570.86.15", "8.0", "", "cu126"),
        ("525.60.13", "", "", "cu126"),
        ("580.65.06", "", "", "cu130"),
        ("580.65.06", "9.0", "cu126", "cu126"),
        ("", "", "", "cu130"),
        ("", "", "cu126", "cu126"),
    ],
)
def test_variant_follows_driver_and_gpus(machine, driver, capabilities, asked, variant):
    arguments, printed = build(machine, DRIVER=driver, CAPABILITIES=capabilities, CUDA_VARIANT=asked)
    bases = [given for given in values(arguments, "--build-arg") if given.startswith("BASE_IMAGE=")]
    index = [given for given in values(arguments, "--build-arg") if given.startswith("TORCH_INDEX_URL=")]
    if variant == "cu126":
        assert bases[0].startswith("BASE_IMAGE=nvidia/cuda:12.6.")
        assert index == ["TORCH_INDEX_URL=https://download.pytorch.org/whl/cu126"]
    else:
        assert bases == []
    assert f"CUDA {variant[2:4]}.{variant[4]}" in printed
    assert ("No NVIDIA driver" in printed) == (not driver)


@pytest.mark.parametrize("asked", ["", "cu126"])
def test_another_base_image_does_not_change_the_variant(machine, asked):
    """A mirror's copy of NVIDIA's image, for instance: PyTorch must be the one that is announced."""
    given = {"BASE_IMAGE": "mirror/cuda:12.6.3", "DRIVER": "550.54.15", "CUDA_VARIANT": asked}
    arguments, printed = build(machine, **given)
    assert "building for CUDA 12.6 (cu126)" in printed
    expected = {"BASE_IMAGE=mirror/cuda:12.6.3", "TORCH_INDEX_URL=https://download.pytorch.org/whl/cu126"}
    assert expected <= set(values(arguments, "--build-arg"))


@pytest.mark.parametrize(
    ("variables", "complaint"),
    [
        (
            {"DRIVER": "470.82.01", "CAPABILITIES": "7.0"},
            "needs NVIDIA driver 525 or newer, and this",
        ),
        (
            {"DRIVER": "550.54.15", "CUDA_VARIANT": "cu130"},
            "is 550.54.15; update the driver, or take CUDA_VARIANT=",
        ),
        ({"DRIVER": "470.1", "CUDA_VARIANT": "cu130"}, "is 470.1; update the driver."),
        ({"DRIVER": "580.1", "CAPABILITIES": "7.0", "CUDA_VARIANT": "cu130"}, "older than compute capability 7.5"),
        ({"DRIVER": "570.1", "CAPABILITIES": "10.0"}, "update the driver to 580 or newer"),
        ({"FREE_GB": "12"}, "12 GB of free disk space in {folder}, and building takes 60"),
        (
            {"DAEMON": "Cannot connect to the Docker daemon at unix:///x."},
            "sudo systemctl start docker",
        ),
        ({"DAEMON": "permission denied while trying to connect to the socket"}, "join the group docker"),
        ({"WITH_NSIGHT": "yes"}, "WITH_NSIGHT is 'yes'; set it to 1 or 0."),
        ({"DISK_GB": "lots"}, "DISK_GB is 'lots'"),
        ({"BUILD_JOBS": "0"}, "BUILD_JOBS is '0'"),
        ({"CUDA_VARIANT": "cu118"}, "CUDA_VARIANT is 'cu118'; choose cu130 or cu126"),
        ({"TORCH_CUDA_ARCH_LIST": "hopper"}, "TORCH_CUDA_ARCH_LIST is 'hopper'"),
        ({"SSL_CERT_FILE": "/nowhere.pem"}, "SSL_CERT_FILE is '/nowhere.pem', and there is no such file"),
    ],
)
def test_one_sentence_for_each_problem(machine, variables, complaint):
    (sentence,) = errors(machine.run("build_image.sh", **variables))
    assert complaint.format(folder=machine.folder) in sentence
    assert machine.called("build") == []


def test_no_docker(machine):
    (machine.bin / "docker").unlink()
    (sentence,) = errors(machine.run("build_image.sh"))
    assert "There is no docker on the PATH; install Docker Engine" in sentence


def test_all_problems_at_once(machine):
    given = {"DAEMON": "Cannot connect", "WITH_APEX": "2", "DRIVER": "450.1", "PIP_CERT": "/nowhere.pem"}
    assert len(errors(machine.run("build_image.sh", **given))) == 4


def test_several_installers(machine):
    for version in (1, 2):
        (machine.project / "docker" / f"nsight-compute-linux-{version}.run").touch()
    (sentence,) = errors(machine.run("build_image.sh"))
    assert "2 installers" in sentence


def test_failed_build(machine):
    ended = machine.run("build_image.sh", STATUS="1")
    assert ended.returncode == 1
    assert "docker build failed" in ended.stderr
    assert "Image:" not in ended.stdout


def test_passwords_of_proxies_are_in_no_command_line(machine):
    arguments, _ = build(machine, https_proxy="http://me:secret@proxy", PIP_EXTRA_INDEX_URL="http://me:secret@index")
    assert "secret" not in " ".join(arguments)
    assert {"https_proxy", "PIP_EXTRA_INDEX_URL"} <= set(values(arguments, "--build-arg"))


def test_folders_of_the_host_are_no_index(machine):
    arguments, _ = build(machine, PIP_FIND_LINKS="/opt/wheels")
    assert "PIP_FIND_LINKS" not in values(arguments, "--build-arg")


def test_certificates(machine, tmp_path):
    one, two = tmp_path / "one.pem", tmp_path / "two.pem"
    one.write_text("1\n", encoding="utf-8")
    two.write_text("2\n", encoding="utf-8")
    trusted = machine.project / "docker" / "certificates" / "host.crt"
    variables = {"SSL_CERT_FILE": str(one), "REQUESTS_CA_BUNDLE": str(one), "PIP_CERT": str(two)}
    assert machine.run("build_image.sh", **variables).returncode == 0
    assert trusted.read_text(encoding="utf-8") == "1\n2\n"
    before = trusted.stat().st_mtime_ns
    assert machine.run("build_image.sh", **variables).returncode == 0
    assert trusted.stat().st_mtime_ns == before
    os.link(trusted, tmp_path / "root's")  # from a build under sudo: it cannot be written, and is replaced
    two.write_text("3\n", encoding="utf-8")
    assert machine.run("build_image.sh", **variables).returncode == 0
    assert trusted.read_text(encoding="utf-8") == "1\n3\n"
    assert (tmp_path / "root's").read_text(encoding="utf-8") == "1\n2\n"
    assert machine.run("build_image.sh").returncode == 0
    assert not trusted.exists()


def test_sudo_and_rootless(machine):
    arguments, _ = build(machine, SUDO_UID="1234", SUDO_GID="5678", SUDO_USER="Jane.Doe@corp")
    assert {"USER_ID=1234", "GROUP_ID=5678", "USER_NAME=jane_doe_corp"} <= set(values(arguments, "--build-arg"))
    machine.calls.unlink()
    arguments, _ = build(machine, SECURITY='["name=seccomp","name=rootless"]')
    assert {"USER_ID=0", "GROUP_ID=0"} <= set(values(arguments, "--build-arg"))


def step(machine, script, *given, **variables):
    """A step of the image's build, with the made-up commands of the machine."""
    command = [shutil.which("bash"), str(machine.project / "docker" / script), *map(str, given)]
    for name in ("mktemp", "nproc", "dirname", "awk"):
        if not (machine.bin / name).exists():
            (machine.bin / name).symlink_to(shutil.which(name))
    usual = {"TORCH_CUDA_ARCH_LIST": "9.0", "APEX_COMMIT": "abc", "CUDA_VERSION": "13.0.2"}
    return subprocess.run(command, env=machine.environment(**(usual | variables)), capture_output=True, text=True)


@pytest.mark.parametrize("index", ["", "http://torch"])
@pytest.mark.parametrize("failing", ["", "--index-url", "--requirement"])
def test_packages(machine, index, failing):
    file = machine.folder / "requirements.txt"
    file.write_text("numpy==2.2.6\ntorch==2.13.0  # why\n", encoding="utf-8")
    case = f'case "$*" in *{failing or "nothing"}*) exit 1 ;; esac'
    machine.command("python3", f'#!/bin/sh\necho "$@" >>"$CALLS"\n{case}\n')
    ended = step(machine, "install_packages.sh", file, TORCH_INDEX_URL=index)
    of_torch = ["-m pip install --no-cache-dir --index-url http://torch torch==2.13.0"] if index else []
    commands = [*of_torch, f"-m pip install --no-cache-dir --requirement {file}"]
    if failing == "--index-url" and index:
        assert "error: torch==2.13.0 could not be installed from http://torch; name another index" in ended.stderr
        commands = of_torch
    elif failing == "--requirement":
        assert "error: What requirements.txt pins could not be installed; name a package index" in ended.stderr
    assert ended.returncode == (1 if "error: " in ended.stderr else 0)
    assert machine.calls.read_text(encoding="utf-8").splitlines() == commands


@pytest.mark.parametrize(
    ("failing", "reason"),
    [
        ("nvcc", "no CUDA compiler"),
        ("python3", "not a CUDA build"),
        ("git", "apex's commit abc could not be fetched from https://github.com/NVIDIA/apex"),
        ("pip install", "could not be installed"),
        ("pip wheel", "could not be compiled"),
        ("", ""),
    ],
)
def test_apex(machine, failing, reason):
    if failing != "nvcc":
        machine.command("nvcc", "#!/bin/sh\n")
    machine.command("git", f'#!/bin/sh\ncase "$*" in *fetch*) exit {int(failing == "git")} ;; esac\n')
    python = 'echo "$@ $APEX_CPP_EXT$APEX_CUDA_EXT $MAX_JOBS" >>"$CALLS"'
    case = {"python3": "-c", "pip install": "-m pip install", "pip wheel": "-m pip wheel"}.get(failing, "nothing")
    machine.command("python3", f'#!/bin/sh\n{python}\ncase "$*" in "{case}"*) exit 1 ;; esac\n')
    ended = step(machine, "build_apex.sh", machine.folder, BUILD_JOBS="3")
    if not failing:
        assert ended.returncode == 0, ended.stderr
        assert "--no-build-isolation" in machine.calls.read_text(encoding="utf-8").splitlines()[-1]
        assert machine.calls.read_text(encoding="utf-8").endswith(" 11 3\n")
    else:
        assert ended.returncode == 1
        assert reason in ended.stderr
        assert ended.stderr.strip().endswith("builds without it when started with WITH_APEX=0.")


def test_nsight_packages(machine):
    machine.command("apt-get", '#!/bin/sh\necho "$@" >>"$CALLS"\n')
    for name in ("ncu", "nsys"):
        machine.command(name, "#!/bin/sh\n")
    ended = step(machine, "install_nsight.sh", "packages")
    assert ended.returncode == 0, ended.stderr
    installed = machine.calls.read_text(encoding="utf-8").splitlines()[-1]
    assert installed.endswith("cuda-nsight-systems-13-0 cuda-nsight-compute-13-0")


@pytest.mark.parametrize(
    ("commands", "variables", "reason"),
    [
        ({"apt-get": 1}, {}, "could not be installed from the base image's package repositories"),
        ({"apt-get": 0}, {"CUDA_VERSION": ""}, "does not say its CUDA version"),
        ({"apt-get": 0, "ncu": 0, "nsys": 3}, {}, "nsys does not run after its installation"),
    ],
)
def test_nsight_that_cannot_be_installed(machine, commands, variables, reason):
    for name, status in commands.items():
        machine.command(name, f"#!/bin/sh\nexit {status}\n")
    ended = step(machine, "install_nsight.sh", "packages", **variables)
    assert ended.returncode == 1
    assert reason in ended.stderr
    assert ended.stderr.strip().endswith("builds without it when started with WITH_NSIGHT=0.")


def test_nsight_installer(machine):
    installer = machine.project / "docker" / "nsight-compute-linux-2025.3.run"
    (machine.bin / "sh").symlink_to("/bin/sh")
    assert step(machine, "install_nsight.sh", "installer").returncode == 0  # there is none
    installer.write_text('echo "$@" >>"$CALLS"\n', encoding="utf-8")
    ended = step(machine, "install_nsight.sh", "installer")
    assert machine.calls.read_text(encoding="utf-8") == "--quiet -- -noprompt -targetpath=/opt/nsight-compute\n"
    assert (ended.returncode, "left no ncu" in ended.stderr) == (1, True)


@pytest.fixture
def install_punkt():
    """The module; a package named docker may be installed."""
    specification = importlib.util.spec_from_file_location("install_punkt", ROOT / "docker" / "install_punkt.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_punkt_of_other_content_is_refused(install_punkt, monkeypatch):
    answer = requests.Response()
    answer.status_code, answer._content = 200, b"something else"
    monkeypatch.setattr(requests, "get", lambda *_, **__: answer)
    with pytest.raises(SystemExit, match=r"was expected.*WITH_PUNKT=0"):
        install_punkt.main()

    def no_route(*_, **__):
        raise requests.ConnectionError("no route")

    monkeypatch.setattr(requests, "get", no_route)
    with pytest.raises(SystemExit, match=r"could not be downloaded.*no route.*WITH_PUNKT=0"):
        install_punkt.main()
