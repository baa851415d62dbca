"""The layering and the quiet imports that docs/design.md promises, read from the sources."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Module or folder -> what of this project it may import, besides errors. Entries are imported by nothing but tests.
MAY_IMPORT = {
    "common": {"common"},
    "file_utils": {"common"},
    "kernels": {"kernels"},
    "tokenization": set(),
    "optimization": {"kernels"},
    "models": {"models", "kernels"},
    "modeling": {"models", "kernels"},
    "training": {"training", "kernels", "optimization", "file_utils"},
    "data": {"data", "tokenization", "file_utils"},
    "pretrained": {"pretrained", "file_utils", "kernels", "modeling", "models", "tokenization"},
    "tasks": {
        "tasks",
        "data",
        "file_utils",
        "kernels",
        "modeling",
        "models",
        "pretrained",
        "tokenization",
        "training",
    },
}
ENTRIES = {"run_pretraining", "run_squad", "run_glue", "benchmark", "scripts"}
OURS = MAY_IMPORT.keys() | ENTRIES

# What training/ may import from outside; it is handed everything else.
TRAINING_LIBRARIES = {"torch", "numpy", "tqdm", "pynvml", "cuda"}
TEST_LIBRARIES = {"pytest", "hypothesis", "transformers", "tests"}

FREEZING_CALLS = {"tuple", "frozenset", "MappingProxyType", "types.MappingProxyType", "tl.constexpr", "gl.constexpr"}
PURE_CALLS = {
    "dataclasses.dataclass",
    "functools.partial",
    "Path",
    "datetime.timedelta",
    "re.compile",
    "TypeVar",
    "range",
    "len",
    "int",
    "float",
    "str",
    "math.sqrt",
}
PURE_METHODS = {"resolve", "absolute", "with_name", "encode", "format"}


def owner(path: str) -> str:
    """The module or folder that a file relative to the root belongs to."""
    first = Path(path).parts[0]
    return first.removesuffix(".py")


def imported_modules(tree: ast.Module, path: str) -> list[tuple[int, str]]:
    """(line, top-level name) of every import, wherever it stands, `importlib.import_module("...")` included."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.lineno, owner(path) if node.level else node.module))
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("importlib.import_module", "__import__"):
            found += [(node.lineno, name.value) for name in node.args[:1] if isinstance(name, ast.Constant)]
    return [(line, name.split(".")[0]) for line, name in found]


def layering_violations(source: str, path: str) -> list[str]:
    importer = owner(path)
    if importer not in OURS:
        return [f"{path}: has no place in the layers; give it one here and in docs/design.md"]
    allowed = MAY_IMPORT.get(importer, OURS - ENTRIES | {importer}) | {"common"}
    violations = []
    for line, name in imported_modules(ast.parse(source), path):
        if name in OURS and name not in allowed:
            violations.append(f"{path}:{line}: {importer} must not import {name}")
        elif name in TEST_LIBRARIES and importer != "benchmark":
            violations.append(f"{path}:{line}: {name} is for tests only")
        elif importer == "training" and name not in OURS | TRAINING_LIBRARIES | sys.stdlib_module_names:
            violations.append(f"{path}:{line}: training must not import {name}")
    return violations


def is_immutable(node: ast.expr) -> bool:
    """Whether a module-level value is certainly neither mutable nor made by a call with effects."""
    if isinstance(node, ast.Constant | ast.Name | ast.Attribute | ast.Lambda | ast.JoinedStr):
        return True
    if isinstance(node, ast.Tuple):
        return all(map(is_immutable, node.elts))
    if isinstance(node, ast.BinOp):
        return is_immutable(node.left) and is_immutable(node.right)
    if isinstance(node, ast.UnaryOp):
        return is_immutable(node.operand)
    if isinstance(node, ast.Compare | ast.BoolOp):
        return True
    if isinstance(node, ast.IfExp):
        return is_immutable(node.body) and is_immutable(node.orelse)
    if isinstance(node, ast.Subscript):  # a type such as Callable[[int], str], or an element of a constant
        return is_immutable(node.value)
    if isinstance(node, ast.Call):
        if ast.unparse(node.func) in FREEZING_CALLS:
            return True
        pure_method = isinstance(node.func, ast.Attribute) and node.func.attr in PURE_METHODS
        is_pure = ast.unparse(node.func) in PURE_CALLS or (pure_method and is_immutable(node.func.value))
        return is_pure and all(map(is_immutable, [*node.args, *(keyword.value for keyword in node.keywords)]))
    return False


def import_effects(statements: list[ast.stmt], path: str) -> list[str]:
    """Module-level statements that do more than define."""
    violations = []
    for node in statements:
        where = f"{path}:{node.lineno}: "
        if isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue  # a docstring, of the module or of the constant before it
        if isinstance(node, ast.Assign | ast.AnnAssign):
            if node.value is not None and not is_immutable(node.value):
                violations.append(f"{where}{ast.unparse(node.value)[:60]} is mutable, or a call, at module level")
        elif isinstance(node, ast.If):
            if ast.unparse(node.test) != "__name__ == '__main__'":
                violations += import_effects([*node.body, *node.orelse], path)
        elif not is_path_setup(node, path):
            violations.append(f"{where}{ast.unparse(node)[:60]} is done at import")
    return violations


def is_path_setup(node: ast.stmt, path: str) -> bool:
    # A script in a folder must put the root on Python's path before it can import anything of ours.
    return len(Path(path).parts) > 1 and ast.unparse(node).startswith(
        "sys.path.insert(0, str(Path(__file__).resolve()."
    )


def effect_violations(source: str, path: str) -> list[str]:
    tree = ast.parse(source)
    globals_ = [node for node in ast.walk(tree) if isinstance(node, ast.Global)]
    return import_effects(tree.body, path) + [f"{path}:{node.lineno}: {ast.unparse(node)}" for node in globals_]


def sources() -> list[str]:
    files = [*ROOT.glob("*.py"), *(file for name in sorted(OURS) for file in (ROOT / name).glob("**/*.py"))]
    return sorted(file.relative_to(ROOT).as_posix() for file in files)


@pytest.mark.parametrize("path", sources())
def test_imports_run_downwards(path):
    assert layering_violations((ROOT / path).read_text(encoding="utf-8"), path) == []


@pytest.mark.parametrize("path", sources())
def test_importing_does_nothing_and_globals_are_immutable(path):
    assert effect_violations((ROOT / path).read_text(encoding="utf-8"), path) == []


COMMAND_LINES = (
    "common/command_line.py",
    "training/config/flags.py",
    "training/config/help.py",
    "data/bertPrep.py",
    "data/create_pretraining_data.py",
    "data/mlperf_bert.py",
    "data/train_vocab.py",
)


def namespace_uses(source: str, path: str) -> list[str]:
    """Where a file that is no command mentions argparse's namespace, or builds one."""
    is_command = owner(path) in ENTRIES or path in COMMAND_LINES
    if is_command:
        return []
    names = {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}
    names |= {node.arg for node in ast.walk(ast.parse(source)) if isinstance(node, ast.arg)}
    return [f"{path}: mentions {name}" for name in sorted(names & {"args", "argparse"})]


@pytest.mark.parametrize("path", sources())
def test_only_command_lines_see_argparse(path):
    assert namespace_uses((ROOT / path).read_text(encoding="utf-8"), path) == []


def test_a_planted_namespace_is_caught():
    assert namespace_uses("def f(args):\n    return args.seed", "training/x.py") == ["training/x.py: mentions args"]
    assert namespace_uses("def f(settings):\n    return settings", "training/x.py") == []


def test_no_source_is_overlooked():
    skipped = {"tests", "results", "docs", "docker"}
    folders = [f for f in ROOT.iterdir() if f.is_dir() and not f.name.startswith(".") and f.name not in skipped]
    python_folders = {folder.name for folder in folders if any(folder.glob("*.py"))}
    assert python_folders <= OURS
    assert {"optimization.py", "file_utils.py", "modeling.py", "training/checkpointing/checkpoint.py"} <= set(sources())


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("training/x.py", "import modeling"),
        ("training/x.py", "from data.pretraining_dataset import PretrainingDataset"),
        ("training/x.py", "def f():\n    from models.encoder import BertEncoder"),
        ("training/x.py", "import h5py"),
        ("training/x.py", "import importlib\nimportlib.import_module('data.loading.flat_batch')"),
        ("kernels/x.py", "import modeling"),
        ("kernels/x.py", "from training import metrics"),
        ("data/x.py", "import modeling"),
        ("data/x.py", "from training.metrics import MetricsLogger"),
        ("modeling.py", "import data.flat_batch"),
        ("modeling.py", "import transformers"),
        ("optimization.py", "import training.metrics"),
        ("file_utils.py", "import tokenization"),
        ("benchmark/x.py", "import run_pretraining"),
        ("run_squad.py", "from run_pretraining import main"),
        ("data/x.py", "from benchmark.sweep import points"),
        ("unknown.py", "import torch"),
    ],
)
def test_planted_imports_are_caught(path, source):
    assert len(layering_violations(source, path)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("training/x.py", "from training.metrics import MetricsLogger\nimport optimization, torch, numpy, tqdm, json"),
        ("kernels/x.py", "from kernels.padding import pad\nimport triton"),
        ("kernels/x.py", "from . import padding"),
        ("data/x.py", "import tokenization, h5py\nfrom data.flat_batch import flatten"),
        (
            "run_pretraining.py",
            "import modeling, optimization, tokenization\nfrom data import x\nfrom training import y",
        ),
        ("benchmark/x.py", "import benchmark.sweep, transformers, modeling"),
    ],
)
def test_allowed_imports_pass(path, source):
    assert layering_violations(source, path) == []


@pytest.mark.parametrize(
    "source",
    [
        "CACHE = {}",
        "NAMES: list[str] = ['a']",
        "SEEN = set()",
        "ROWS = [x for x in (1, 2)]",
        "PAIR = (1, [2])",
        "BOTH = ('a',) + tuple([1]) if True else []",
        "DEVICE = torch.device('cuda')",
        "torch.manual_seed(0)",
        "print('hello')",
        "os.environ['A'] = open('x').read()",
        "for x in (1, 2):\n    pass",
        "with open('x') as f:\n    pass",
        "try:\n    import apex\nexcept ImportError:\n    apex = None",
        "if True:\n    torch.set_num_threads(1)",
        "COUNT = 0\ndef f():\n    global COUNT\n    COUNT += 1",
        "COUNT = 0\nCOUNT += 1",
        "sys.path.append('x')",
    ],
)
def test_planted_effects_are_caught(source):
    assert effect_violations(source, "training/x.py")


def test_definitions_and_constants_pass():
    source = '''"""Docstring."""
import re
from pathlib import Path
from types import MappingProxyType

SIZE = -2 * 3
NAMES = ("a", "b") + ("c",)
TABLE = MappingProxyType({"a": [1]})
SEEN = frozenset({1, 2})
PATTERN = re.compile("a")
ROOT = Path(__file__).resolve().parent / "data"
Callback = Callable[[int], str]
later: int
if TYPE_CHECKING:
    import torch


class A:
    cache = {}


def f():
    return []


if __name__ == "__main__":
    print(f())
'''
    assert effect_violations(source, "training/x.py") == []
    assert effect_violations("sys.path.insert(0, str(Path(__file__).resolve().parent.parent))", "data/x.py") == []


@pytest.mark.parametrize(
    "command",
    ["data/bertPrep.py", "data/create_pretraining_data.py", "data/mlperf_bert.py", "scripts/check_environment.py"],
)
def test_commands_that_start_many_processes_or_come_before_pytorch_do_without_it(command):
    listed = subprocess.run(
        [sys.executable, "-X", "importtime", ROOT / command, "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {line.rpartition("|")[2].strip() for line in listed.stderr.splitlines()}
    assert "common.errors" in imported
    assert "torch" not in imported


def test_training_begins_without_pytorchs_compiler():
    """Which only --compile needs: to import it takes a second of each process's start."""
    code = """
import sys, torch
from modeling import BertForQuestionAnswering
from models.config import BertConfig
from optimization import LAMB
from tasks.execution import meta_model
meta_model(BertForQuestionAnswering, BertConfig(96)).state_dict()
weights = torch.ones(3, requires_grad=True)
weights.sum().backward()
optimizer = LAMB([weights], lr=1.0)
optimizer.step()
optimizer.zero_grad()
optimizer.load_state_dict(optimizer.state_dict())
sys.exit("torch._dynamo" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
