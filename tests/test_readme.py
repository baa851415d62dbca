"""The documents in the root and docs/ are true of the tree: commands parse; files, links, flags and variables exist."""

import contextlib
import functools
import io
import re
import shlex
import subprocess
import sys

import pytest
from known_flags import known_flags
from paths import ROOT

import benchmark.check
import benchmark.checkpoint
import benchmark.curves
import benchmark.data_preparation
import benchmark.data_scale
import benchmark.floor
import benchmark.gelu_matmul
import benchmark.huggingface_pretraining
import benchmark.loader
import benchmark.made_mlperf
import benchmark.made_squad
import benchmark.nsight
import benchmark.records
import benchmark.reduction
import benchmark.report
import benchmark.scaling
import benchmark.scaling_model
import benchmark.summarize
import benchmark.summarize_glue
import benchmark.summarize_squad
import benchmark.summarize_time_to_quality
import benchmark.sweep
import benchmark.training_step
import data.bertPrep
import data.create_pretraining_data
import data.train_vocab
import scripts.all_reduce
import scripts.check_environment
import scripts.convert_checkpoint
import tasks.glue.task
import tasks.pretraining.task
import tasks.setup
import tasks.squad.task
from common.errors import UserError

DOCUMENTS = sorted(path.relative_to(ROOT).as_posix() for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")))
SHOWN_IN_README = (
    "data/create_datasets_from_start.sh",
    "scripts/run_pretraining.sh",
    "scripts/run_squad.sh",
    "scripts/run_glue.sh",
    "scripts/run_time_to_quality.sh",
    "scripts/measure_throughput_pretrain.sh",
    "scripts/measure_scaling.sh",
    "scripts/profile_pretrain.sh",
    "benchmark/report.py",
    "benchmark/training_step.py",
    "start_container.sh",
)

PARSERS = {
    "run_pretraining.py": functools.partial(tasks.setup.parse_arguments, tasks.pretraining.task.PretrainingTask),
    "benchmark/huggingface_pretraining.py": functools.partial(
        tasks.setup.parse_arguments, benchmark.huggingface_pretraining.HuggingFacePretraining
    ),
    "benchmark/summarize_time_to_quality.py": benchmark.summarize_time_to_quality.parse_arguments,
    "benchmark/training_step.py": benchmark.training_step.parse_arguments,
    "benchmark/data_preparation.py": benchmark.data_preparation.parse_arguments,
    "benchmark/data_scale.py": benchmark.data_scale.parse_arguments,
    "benchmark/summarize.py": benchmark.summarize.parse_arguments,
    "benchmark/curves.py": benchmark.curves.parse_arguments,
    "benchmark/made_mlperf.py": benchmark.made_mlperf.parse_arguments,
    "benchmark/made_squad.py": benchmark.made_squad.parse_arguments,
    "benchmark/summarize_squad.py": benchmark.summarize_squad.parse_arguments,
    "benchmark/summarize_glue.py": benchmark.summarize_glue.parse_arguments,
    "benchmark/check.py": benchmark.check.parse_arguments,
    "benchmark/nsight.py": benchmark.nsight.parse_arguments,
    "benchmark/records.py": benchmark.records.parse_arguments,
    "benchmark/reduction.py": benchmark.reduction.parse_arguments,
    "benchmark/report.py": benchmark.report.parse_arguments,
    "benchmark/scaling_model.py": benchmark.scaling_model.parse_arguments,
    "benchmark/scaling.py": benchmark.scaling.parse_arguments,
    "benchmark/sweep.py": benchmark.sweep.parse_arguments,
    "run_squad.py": functools.partial(tasks.setup.parse_arguments, tasks.squad.task.SquadTask),
    "run_glue.py": functools.partial(tasks.setup.parse_arguments, tasks.glue.task.GlueTask),
    "benchmark/floor.py": benchmark.floor.parse_arguments,
    "benchmark/gelu_matmul.py": benchmark.gelu_matmul.parse_arguments,
    "benchmark/loader.py": benchmark.loader.parse_arguments,
    "benchmark/checkpoint.py": benchmark.checkpoint.parse_arguments,
    "scripts/all_reduce.py": scripts.all_reduce.parse_arguments,
    "scripts/check_environment.py": scripts.check_environment.parse_arguments,
    "scripts/convert_checkpoint.py": scripts.convert_checkpoint.parse_arguments,
    "data/bertPrep.py": data.bertPrep.parse_arguments,
    "data/create_pretraining_data.py": data.create_pretraining_data.parse_arguments,
    "data/train_vocab.py": data.train_vocab.parse_arguments,
}
# Read by Python code, whichever script starts it.
VARIABLES_OF_PYTHON = {"BERT_PREP_WORKING_DIR", "BERT_REFERENCE_DATA", "OMP_NUM_THREADS"}


def known_variables(script):
    """What a script takes from the environment, with what the scripts that it sources or starts take."""
    sourced = ("scripts/environment.sh", "scripts/launch.sh", "scripts/profilers.sh")
    sourced += ("scripts/measure_throughput.sh",) if "measure_throughput" in script else ()
    started = ("scripts/run_pretraining.sh",) if script == "scripts/run_pretraining.slurm" else ()
    text = "\n".join((ROOT / name).read_text(encoding="utf-8") for name in (script, *sourced, *started))
    return set(re.findall(r"\b([A-Z][A-Z0-9_]*)=\$\{\1:?-", text)) | VARIABLES_OF_PYTHON


def command_lines(document):
    """The commands in fenced `sh` blocks and in indented ones, each on one line."""
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```$", document, re.MULTILINE | re.DOTALL)
    blocks += re.findall(r"(?:^    (?:python3|bash|torchrun|[A-Z_]+=).*\n(?:^     .*\n)*)", document, re.MULTILINE)
    joined = re.sub(r"\\\n\s*", "", "\n".join(blocks))
    return [line.strip() for line in joined.splitlines() if line.strip()]


def complaint_about_command(command):
    """What is wrong with a command line as a user would copy it, or None."""
    # Optional parts are written in brackets; a command is tried with them.
    command = re.sub(r"\[((?:--|[A-Z]).*?)\]", r"\1", command).replace(" ...", "")
    if subprocess.run(["bash", "-n", "-c", command], capture_output=True, check=False).returncode:
        return "is not shell"
    words = shlex.split(command, comments=True)
    variables = []
    while words and re.match(r"[A-Z_0-9]+=", words[0]):
        variables.append(words.pop(0).split("=")[0])
    if words[0] == "sed" or command == "source .venv/bin/activate":
        return None  # changes a copy of one of our files; takes what scripts/environment.sh makes
    if len(words) < 2 or words[0] not in ("bash", "python3", "sbatch", "torchrun"):
        return "starts none of bash, python3, sbatch and torchrun"
    place = next((index for index, word in enumerate(words) if word.endswith((".py", ".sh", ".slurm"))), 1)
    script, arguments = words[place], words[place + 1 :]
    if not (ROOT / script).is_file():
        return f"starts {script}, which is not there"
    if script.endswith((".sh", ".slurm")):
        unknown = set(variables) - known_variables(script)
        return f"sets {', '.join(sorted(unknown))}, which {script} does not read" if unknown else None
    return complaint_of_parser(script, arguments)


def complaint_of_parser(script, arguments):
    if script not in PARSERS:
        return f"starts {script}, whose flags this test does not know"
    before = sys.argv
    sys.argv = [script, *arguments]  # some of them take no arguments but these
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):  # --help
            PARSERS[script]()
    except UserError as error:
        return str(error)
    finally:
        sys.argv = before
    return None


def complaints(document, folder=ROOT):
    """All that a document says and the tree does not bear out; links are relative to `folder`."""
    found = [f"`{command}` {complaint}" for command in command_lines(document) if (complaint := check(command))]
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document):
        if not target.startswith("https://") and not (folder / target).exists():
            found.append(f"links to {target}, which is not there")
    flags = known_flags()
    quoted = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", document, flags=re.DOTALL))
    for text in quoted:
        named = re.findall(r"--[a-z][\w-]*", text)
        unknown = [flag for flag in named if not {flag, flag.replace("--no-", "--", 1)} & flags]
        found += [f"names {flag}, which nothing takes" for flag in unknown]
        # A file may be named without its folder where that was said before.
        places = (ROOT, folder, ROOT / "scripts", ROOT / "data")
        if is_path_of_the_tree(text) and not any((place / text).exists() for place in places):
            found.append(f"names {text}, which is not there")
    return found


def check(command):
    return None if command.startswith("#") else complaint_about_command(command)


def is_path_of_the_tree(text):
    """Whether a word in code type is meant as a file or folder of the project, rather than of a user or of another."""
    if re.search(r"[\s*<>$={}\[\]]", text):
        return False
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")} - {"results"}
    first, slash, rest = text.partition("/")
    if slash and first in folders:
        return not (
            first == "data"
            and rest.startswith(("hdf5_", "download", "extracted", "formatted", "sharded", "mlperf_bert/"))
        )
    return bool(re.fullmatch(r"[a-z_A-Z]+\.(py|sh|toml)|requirements[\w-]*\.txt", text)) and not slash


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_tree_bears_out_what_documents_say(name):
    path = ROOT / name
    assert complaints(path.read_text(encoding="utf-8"), path.parent) == []


def test_the_readme_shows_the_commands_it_should():
    commands = command_lines((ROOT / "README.md").read_text(encoding="utf-8"))
    assert commands[:2] == ["bash scripts/quickstart.sh", "bash scripts/run_tests.sh"]
    for script in SHOWN_IN_README:
        assert any(script in command for command in commands), script


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ("```sh\nbash scripts/absent.sh\n```\n", "scripts/absent.sh, which is not there"),
        ("```sh\nNUM_TPUS=8 bash scripts/run_pretraining.sh\n```\n", "sets NUM_TPUS, which"),
        ("```sh\npython3 run_pretraining.py --input_dir a --output_dir b \\\n  --fast\n```\n", "arguments: --fast"),
        ("   ```sh\n   python3 benchmark/summarize.py\n   ```\n", "required: LOG"),
        ("```sh\nbash 'scripts\n```\n", "is not shell"),
        ("    python3 run_pretraining.py --max_steps many --input_dir a --output_dir b\n", "invalid int value"),
        ("use `--nonsense`", "names --nonsense"),
        ("see `training/nothing.py`", "names training/nothing.py"),
        ("see `nothing.py`", "names nothing.py"),
        ("[this](docs/nothing.md)", "links to docs/nothing.md"),
    ],
)
def test_planted_faults_are_found(document, complaint):
    found = complaints(document)
    assert len(found) == 1
    assert complaint in found[0]
