"""What the records under docs/records measured, as rows that README.md, the pages of docs/ and the picture share.

A record is a folder `DATE-NAME` with result files as the tools wrote them. Of several with one name the newest counts,
so a new measurement replaces the figures everywhere.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from benchmark.logs import Run, read_run
from benchmark.reports.published import every_reference
from benchmark.reports.time_to_quality import TimedRun, comparison_problems, read_timed_run
from benchmark.sweeps.plan import WORKLOADS
from benchmark.sweeps.points import FILE_NAME, Point, Repeats, by_configuration, read_points
from common.errors import Problems, UserError
from common.words import counted

DATED = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]-"  # a glob
STEPS_FILES = "steps*.jsonl"
"""Lines of benchmark/training_step.py --output, of one process or of several."""
VARIANTS = MappingProxyType({"triton-attention": "bf16", "fp8": "fp8", "hf-compiled": "huggingface"})
"""Of benchmark/training_step.py, without and with CUDA graphs: those that are compared."""


class Row(NamedTuple):
    """A system, and how fast it is."""

    system: str
    hardware: str
    rates: Mapping[str, float]
    """Sequences per second and GPU, by name in `WORKLOADS`."""
    source: str
    """Folder of the record, or address of who published it."""
    shares: Mapping[str, float] = MappingProxyType({})
    """Of linear, where several GPUs were measured."""


def newest(records: Path, name: str) -> Path | None:
    """The folder of the newest record with this name."""
    return max(records.glob(DATED + name), default=None)


def rows_of_points(folder: Path) -> Iterator[Row]:
    """A row per precision and number of GPUs: BERT-large, an optimizer step for every micro-batch."""
    rates, gpu = _rates(read_points(folder)), gpu_of(environments(folder))
    for precision in ("bf16", "fp8"):
        for n_gpus in sorted({n_gpus for _, _, n_gpus, steps in rates if steps == 1}):
            cells = {w: rates[key] for w in WORKLOADS if (key := (w, precision, n_gpus, 1)) in rates}
            if cells:
                shares = _shares(rates, precision, n_gpus, 1) if n_gpus > 1 else {}
                yield Row(f"this project, {precision}", f"{n_gpus} x {gpu}", cells, folder.name, shares)


def accumulated_shares(folder: Path) -> dict[int, list[float]]:
    """Shares of linear of several GPUs, of all workloads and precisions, by micro-batches per reduction."""
    rates = _rates(read_points(folder))
    found: dict[int, list[float]] = {}
    for _, precision, n_gpus, steps in rates:
        if n_gpus > 1:
            found.setdefault(steps, []).extend(_shares(rates, precision, n_gpus, steps).values())
    return found


def _rates(points: Sequence[Point]) -> dict[tuple[str, str, int, int], float]:
    """Sequences per second and GPU by workload, precision, GPUs and micro-batches per step.

    Raises:
        UserError: two configurations of one record would be one figure.
    """
    rates: dict[tuple[str, str, int, int], float] = {}
    for repeats in by_configuration(points).values():
        c = repeats.configuration
        work = workload_of(c["workload"], c["max_seq_length"], str(c["lengths"]).split(" ")[-1])
        usual = work and c["batch_size"] == WORKLOADS[work].micro_batch * c["accumulation_steps"]
        if c["model"] != "large" or not usual or repeats.status != "ok":
            continue
        key = (work, c["precision"], c["n_gpus"], c["accumulation_steps"])
        if key in rates:
            micro_batches = counted(c["accumulation_steps"], "micro-batch", "micro-batches")
            told = f"{work}, {c['precision']}, {counted(c['n_gpus'], 'GPU')}, {micro_batches}"
            raise UserError(f"a record has two configurations of {told}", f"keep one of them in {FILE_NAME}")
        rates[key] = _rate_per_gpu(repeats)
    return rates


def _rate_per_gpu(repeats: Repeats) -> float:
    return repeats.median("sequences_per_second") / repeats.configuration["n_gpus"]


def _shares(rates: Mapping[Any, float], precision: str, n_gpus: int, steps: int) -> dict[str, float]:
    keys = {w: ((w, precision, n_gpus, steps), (w, precision, 1, steps)) for w in WORKLOADS}
    return {w: rates[several] / rates[one] for w, (several, one) in keys.items() if {several, one} <= rates.keys()}


def workload_of(entry: str, max_seq_length: int, lengths: str) -> str | None:
    """The name in `WORKLOADS`; `lengths` is "full" or a mean."""
    known = {(w.entry, w.max_seq_length, w.synthetic): name for name, w in WORKLOADS.items()}
    return known.get((entry, max_seq_length, lengths))


def best_steps(folder: Path) -> dict[str, dict[str, float]]:
    """The best sequences/s over batch sizes, by workload, of `bf16`, `fp8` and `huggingface`."""
    best: dict[str, dict[str, float]] = {}
    for line in read_steps(folder):
        entry = "squad" if line["task"] == "squad" else "pretrain"
        mean = "full" if line["mean_length"] is None else f"{line['mean_length']:g}"
        work, who = workload_of(entry, line["max_seq_length"], mean), VARIANTS.get(line["variant"].split("+")[0])
        if line["model"] == "large" and work and who:
            rates = best.setdefault(work, {})
            rates[who] = max(rates.get(who, 0.0), line["sequences_per_second"])
    return {work: best[work] for work in WORKLOADS if work in best}


def hugging_face_row(folder: Path) -> Row:
    """Hugging Face's model, compiled, each at its best batch size."""
    rates = {work: found["huggingface"] for work, found in best_steps(folder).items() if "huggingface" in found}
    return Row("Hugging Face's model, compiled, bf16", f"1 x {gpu_of(environments(folder))}", rates, folder.name)


def published_rows() -> Iterator[Row]:
    """What others published of BERT-large, each as it stands in references.json."""
    rows: dict[tuple[str, str], Row] = {}
    for each in every_reference():
        precision = each["precision"].split(" in ")[0]
        row = Row(f"{each['system']}, {precision}", each["gpu"], {}, each["source"].split(" ")[0])
        row = rows.setdefault((row.system, row.hardware), row)
        row.rates[workload_of(each["workload"], each["max_seq_length"], each["mean_length"])] = each["rate"]
    yield from rows.values()


def timed_runs(folder: Path) -> list[TimedRun]:
    """The runs of a record of times to quality, `VARIANT/seed_N/dllogger.json`, which can be compared."""
    runs = [read_timed_run(str(log)) for log in sorted(folder.glob("*/*/dllogger.json"))]
    problems = Problems()
    problems.extend(comparison_problems(runs))
    problems.raise_if_any()
    return runs


def training_runs(folder: Path) -> list[Run]:
    """The runs of a record, labeled by their folders."""
    return [read_run(log, str(log.parent.relative_to(folder))) for log in sorted(folder.rglob("dllogger.json"))]


def read_steps(folder: Path) -> list[dict[str, Any]]:
    """The lines of a record's training steps; none where it is of other measurements."""
    files = sorted(folder.glob(STEPS_FILES))
    return [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]


def environments(folder: Path) -> list[dict[str, Any]]:
    """What every measurement of a record ran on, in order of time."""
    points = read_points(folder) if (folder / FILE_NAME).is_file() else []
    found = [line["environment"] for line in [*points, *read_steps(folder)]]
    found += [run.environment for run in training_runs(folder)]
    return sorted((each for each in found if each), key=lambda each: str(each.get("time")))


def gpu_of(found: Sequence[Mapping[str, Any]]) -> str:
    """The GPUs' name, or the CPU's, without its maker.

    Raises:
        UserError: they differ within a record.
    """
    names = {each["gpus"][0] if each.get("gpus") else each.get("cpu") or "CPU" for each in found}
    if len(names) != 1:
        raise UserError(f"a record is of {sorted(names)}", "make a record for each kind of hardware")
    return names.pop().removeprefix("NVIDIA ")
