"""The points in a folder: what an earlier start measured on the same machine, and what this one adds."""

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmark.sweeps.points import FILE_NAME, Point, read_points
from common.addresses import without_secrets
from common.errors import UserError
from file_utils import atomic_write
from kernels.defaults import fast_paths
from models.config import BERT_CONFIGS, BertConfig
from models.fused_variants import fused_problems
from training.config.precision import PRECISIONS, precision_problem, resolve_precision
from training.environment.description import describe_environment

SAME = ("gpus", "driver", "torch", "cuda", "cpu", "git_commit", "git_dirty")
OTHER_FOLDER = "choose another --output_dir, so that no table mixes the two"


def describe_machine(bert_model: str) -> dict[str, Any]:
    """The environment of a measuring process, its `precisions`, its default one, and the `kernels` that each gets."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = BertConfig.from_json_file(BERT_CONFIGS.get(bert_model, bert_model))
    able = [resolve_precision(name, device) for name in PRECISIONS if not precision_problem(name, device)]
    is_fused = not list(fused_problems(config, "torch", in_fp8=False))
    kernels = {each.name: fast_paths(device, each.compute_dtype).kernels for each in able if is_fused}
    own = {"precision": resolve_precision(None, device).name, "precisions": [each.name for each in able]}
    return describe_environment() | own | {"kernels": kernels}


def all_flags(environment: Mapping[str, Any], precision: str, extra: Sequence[str]) -> str:
    """The flags of a configuration: those that were given, and the kernels that a run would choose by itself.

    So results name their kernels, and differ from those of others.
    """
    is_named = any(word.split("=")[0] in ("--kernels", "--layer_norm") for word in extra)
    is_chosen = environment.get("kernels", {}).get(precision) == "triton" and not is_named
    return shlex.join([*(["--kernels", "triton"] if is_chosen else []), *extra])


class Record:
    """The points of a folder, which is made where it is missing. Failed ones are dropped, to be measured again.

    Args:
        environment: of this machine, by `describe_machine`.
        check: raises UserError for an earlier point that new ones may not be mixed with.

    Raises:
        UserError: the earlier points are of another environment. The file is left as it is.
    """

    def __init__(self, folder: Path, environment: Mapping[str, Any], check: Callable[[Point], None] = lambda _: None):
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / FILE_NAME
        known = read_points(self.file) if self.file.exists() else []
        self.points = [point for point in known if point["status"] != "failed"]
        for point in self.points:
            check(point)
            for name in SAME:
                was, now = point["environment"].get(name), environment.get(name)
                if was is not None and was != now:
                    raise UserError(f"{self.file} was measured with {name} {was}, and this is {now}", OTHER_FOLDER)
        with atomic_write(self.file) as file:
            file.writelines(json.dumps(point) + "\n" for point in self.points)

    def find(self, configuration: Mapping[str, Any], repeat: int = 0) -> Point | None:
        """The point of a measurement, where it was made."""
        for point in self.points:
            if point["configuration"] == configuration and point["repeat"] == repeat:
                return point
        return None

    def add(self, point: Point) -> None:
        """Keep a measurement that has ended."""
        self.points.append(point)
        with self.file.open("a", encoding="utf-8") as file:
            file.write(without_secrets(json.dumps(point)) + "\n")
