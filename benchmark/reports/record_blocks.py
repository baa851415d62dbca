"""What benchmark/records.py writes into README.md and docs/: figures of the records in Markdown, block by block.

Each function takes the folder of the records and the document, and gives None as long as its record is missing.
"""

import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from benchmark.reports.records import (
    DATED,
    Row,
    accumulated_shares,
    best_steps,
    environments,
    gpu_of,
    hugging_face_row,
    newest,
    published_rows,
    rows_of_points,
    timed_runs,
    training_runs,
)
from benchmark.reports.records_picture import Bar, describe
from benchmark.reports.scaling import scaling_rows
from benchmark.reports.tables import short_commit
from benchmark.reports.time_to_quality import TimedRun, run_rows, variant_rows
from benchmark.sweeps.plan import WORKLOADS
from benchmark.sweeps.points import read_points
from benchmark.tables import MISSING, Table, markdown_table, text
from common.errors import UserError

SCALING, HUGGING_FACE, QUALITY, QUICKSTART = "h200-scaling", "h200-huggingface", "time-to-quality", "quickstart"
"""Names of records, behind their dates."""
COLUMNS = MappingProxyType(
    {
        "phase1": "phase 1, 128 tokens",
        "phase2": "phase 2, 512 tokens",
        "unpadded": "254 on average",
        "squad": "SQuAD, 384 tokens",
    }
)
SHORT = MappingProxyType({"phase1": "phase 1", "phase2": "phase 2", "unpadded": "lengths around 254", "squad": "SQuAD"})
PICTURE = "throughput-{theme}.svg"
"""In the folder of the records."""
SHOWN_TARGETS = (0.40, 0.43)
WITH = MappingProxyType({"bf16": "in bf16", "fp8": "in fp8", "huggingface": "with Hugging Face's model"})


def figures(records: Path, document: Path) -> str | None:
    """The README's table, ours and others', and what follows from the records besides."""
    if not (scaling := newest(records, SCALING)):
        return None
    rows = [*rows_of_points(scaling)]
    if folder := newest(records, HUGGING_FACE):
        rows.append(hugging_face_row(folder))
    rows += published_rows()
    header = ["sequences/s per GPU", "hardware", *COLUMNS.values()]
    cells = [[_link(row, records, document), row.hardware, *(_rate(row, work) for work in WORKLOADS)] for row in rows]
    sentences = [*_compared(records, document), *_accumulated(scaling, document), *_learned(records, document)]
    return "\n".join([markdown_table(header, cells), "", *(f"- {sentence}" for sentence in sentences)]) + "\n"


def picture(records: Path, document: Path) -> str | None:
    """The README's picture, with its words for who does not see it."""
    drawn = picture_of(records)
    if drawn is None:
        return None
    folder = _relative(records, document)
    dark, light = (f"{folder}/{PICTURE.format(theme=theme)}" for theme in ("dark", "light"))
    return (
        f'<picture>\n  <source media="(prefers-color-scheme: dark)" srcset="{dark}">\n'
        f'  <img src="{light}" alt="{describe(*drawn)}">\n</picture>\n'
    )


def picture_of(records: Path) -> tuple[str, dict[str, list[Bar]]] | None:
    """Title, and bars by workload: ours on one GPU, Hugging Face's, and what NVIDIA published of its example."""
    scaling, theirs = newest(records, SCALING), newest(records, HUGGING_FACE)
    if not scaling:
        return None
    ours = {row.system: row for row in reversed([*rows_of_points(scaling)]) if not row.shares}
    rows = {name.replace("this project", "This project"): row for name, row in ours.items()}
    rows |= {"Hugging Face, bf16": hugging_face_row(theirs)} if theirs else {}
    rows["NVIDIA's example, A100"] = next(row for row in published_rows() if row.system.startswith("NVIDIA's example"))
    groups = {
        COLUMNS[work][0].upper() + COLUMNS[work][1:]: [
            Bar(name, row.rates[work], "://" in row.source) for name, row in rows.items() if work in row.rates
        ]
        for work in ("phase1", "phase2", "squad")
        if any(work in row.rates for row in ours.values())
    }
    return f"BERT-large on one {gpu_of(environments(scaling))}, sequences/s", groups


def quickstart(records: Path, document: Path) -> str | None:
    """What the quickstart prints, without the paths and the commands at its end."""
    if not (folder := newest(records, QUICKSTART)):
        return None
    printed = (folder / "output.txt").read_text(encoding="utf-8")
    return f"```\n{printed[printed.index('1/6 ') : printed.index('  date ')]}```\n"


def scaling(records: Path, document: Path) -> str | None:
    """Several GPUs against one."""
    if not (folder := newest(records, SCALING)):
        return None
    rows = [
        {
            "work": f"{row['workload']}, {row['settings'].split(',')[0]}",
            "micro-batches": f"{row['accumulation_steps']} x {row['micro_batch']}",
            "GPUs": str(row["n_gpus"]),
            "sequences/s of each": text(row["sequences_per_second_per_gpu"], ",.1f"),
            "of linear": text(row["share_of_linear"], ".1%"),
            "added, ms": text(row["added_seconds"] and 1e3 * row["added_seconds"], ",.1f"),
            "J/sequence": text(row["joules_per_sequence"], ".3g"),
        }
        for row in scaling_rows(read_points(folder))
        if row["n_gpus"] > 1
    ]
    return f"{_conditions_in_line(folder, document)}\n\n{Table('', rows).markdown('')}"


def quality(records: Path, document: Path) -> str | None:
    """Seconds to an accuracy: a row per variant, then a row per run."""
    if not (folder := newest(records, QUALITY)):
        return None
    runs = timed_runs(folder)
    tables = [variant_rows(runs, SHOWN_TARGETS, "huggingface"), run_rows(runs, SHOWN_TARGETS)]
    shown = "\n".join(Table("", rows).markdown("") for rows in tables)
    return f"{_conditions_in_line(folder, document)} {runs[0].conditions}\n\n{shown}"


def training_runs_of(_: Path, document: Path) -> str | None:
    """Every training run of the record in the document's folder."""
    rows = [
        {"run": run.label, "phase": str(number)} | phase.cells()
        for run in training_runs(document.parent)
        for number, phase in run.phases.items()
    ]
    return Table("", rows).markdown("")


def conditions(_: Path, document: Path) -> str | None:
    """What the record in the document's folder ran on."""
    found = environments(document.parent)
    if not found:
        raise UserError(f"{document.parent} has no result", "copy results there with benchmark/records.py --keep")
    told = {
        "hardware": [_hardware(each) for each in found],
        "software": [_software(each) for each in found],
        "commit": [_commit(each) for each in found],
        "measured": [_period(day, found) for day in _days(found)],
    }
    return "".join(f"- {name}: {'; '.join(dict.fromkeys(values))}\n" for name, values in told.items())


def list_of_records(records: Path, document: Path) -> str | None:
    """Every record, with the title of its page."""
    pages = sorted(records.glob(f"{DATED}*/README.md"))
    titles = [page.read_text(encoding="utf-8").split("\n")[0].removeprefix("# ") for page in pages]
    rows = [
        [f"[{page.parent.name}]({_relative(page, document)})", title] for page, title in zip(pages, titles, strict=True)
    ]
    return markdown_table(["record", "of"], rows) + "\n" if rows else None


BLOCKS: Mapping[str, Callable[[Path, Path], str | None]] = MappingProxyType(
    {
        "figures": figures,
        "picture": picture,
        "quickstart": quickstart,
        "scaling": scaling,
        "quality": quality,
        "runs": training_runs_of,
        "conditions": conditions,
        "records": list_of_records,
    }
)


def _relative(target: Path, document: Path) -> str:
    return Path(os.path.relpath(target, document.parent)).as_posix()


def _page(folder: Path, document: Path) -> str:
    return _relative(folder / "README.md", document)


def _link(row: Row, records: Path, document: Path) -> str:
    address = row.source if "://" in row.source else _page(records / row.source, document)
    return f"[{row.system}]({address})"


def _rate(row: Row, work: str) -> str:
    if work not in row.rates:
        return MISSING
    rate = f"{row.rates[work]:,g}" if "://" in row.source else f"{row.rates[work]:,.0f}"
    return f"{rate} ({row.shares[work]:.1%})" if work in row.shares else rate


def _compared(records: Path, document: Path) -> Iterator[str]:
    if not (folder := newest(records, HUGGING_FACE)):
        return
    best = {work: rates for work, rates in best_steps(folder).items() if {"bf16", "fp8", "huggingface"} <= rates.keys()}
    bf16, fp8 = (
        _listed([f"{rates[precision] / rates['huggingface']:.2f}" for rates in best.values()])
        for precision in ("bf16", "fp8")
    )
    if best:
        yield (
            f"In {_listed([SHORT[work] for work in best])}, this project is {bf16} times as fast as Hugging Face's "
            f"compiled model in bf16, and {fp8} times in fp8: on the same batches in one process, each at its best "
            f"batch size ([record]({_page(folder, document)}))."
        )


def _accumulated(folder: Path, document: Path) -> Iterator[str]:
    for steps, shares in sorted(accumulated_shares(folder).items()):
        if steps > 1:
            between = " to ".join(dict.fromkeys(f"{share:.1%}" for share in (min(shares), max(shares))))
            yield f"Several GPUs that average gradients after every {steps} micro-batches reach {between} of linear."


def _learned(records: Path, document: Path) -> Iterator[str]:
    if not (folder := newest(records, QUALITY)):
        return
    runs: dict[str, list[TimedRun]] = {}
    for run in timed_runs(folder):
        runs.setdefault(run.variant, []).append(run)
    target = SHOWN_TARGETS[-1]
    told = [f"{_seconds(runs[name], target)} {words}" for name, words in WITH.items() if name in runs]
    n_seeds = " or ".join(map(str, sorted({len(runs[name]) for name in WITH if name in runs})))
    yield (
        f"BERT-base from random weights predicts {target:.0%} of the held-out masked tokens after {_listed(told)}; "
        f"means of {n_seeds} seeds on one {gpu_of(environments(folder))} ([record]({_page(folder, document)}))."
    )


def _seconds(runs: Sequence[TimedRun], target: float) -> str:
    seconds = [found for run in runs if (found := run.seconds_to(target)) is not None]
    if len(seconds) < len(runs):
        return f"more steps than it had ({len(seconds)} of {len(runs)} seeds reached it)"
    mean, *ends = (f"{value:,.0f}" for value in (statistics.fmean(seconds), min(seconds), max(seconds)))
    return f"{mean} s" if set(ends) == {mean} else f"{mean} s ({' to '.join(ends)})"


def _hardware(environment: Mapping[str, Any]) -> str:
    gpus = environment.get("gpus")
    cpu = f"{environment.get('cpu_cores')} CPU cores"
    return f"{len(gpus)} x {gpus[0]}, driver {environment.get('driver')}, {cpu}" if gpus else cpu


def _days(found: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(each["time"][:10] for each in found))


def _period(day: str, found: Sequence[Mapping[str, Any]]) -> str:
    times = [each["time"][11:16] for each in found if each["time"].startswith(day)]
    return f"{day}, {times[0]} to {times[-1]} UTC"


def _software(environment: Mapping[str, Any]) -> str:
    names = {"torch": "PyTorch", "cuda": "CUDA", "nccl": "NCCL", "python": "Python"}
    return ", ".join(f"{name} {environment[key]}" for key, name in names.items() if environment.get(key))


def _commit(environment: Mapping[str, Any]) -> str:
    changed = " with changes" if environment.get("git_dirty") else ""
    return f"{short_commit(environment.get('git_commit') or 'unknown')}{changed}, version {environment.get('version')}"


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def _conditions_in_line(folder: Path, document: Path) -> str:
    found: list[dict[str, Any]] = environments(folder)
    versions = " and ".join(dict.fromkeys(str(each.get("torch")).split("+")[0] for each in found))
    return f"{gpu_of(found)}, PyTorch {versions}, {' and '.join(_days(found))} ([record]({_page(folder, document)}))."
