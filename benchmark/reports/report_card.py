"""The report card: what was measured on what, how good it is, and whether it may be believed, on one screen."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from benchmark.logs import Run
from benchmark.reports.data import Result, measured
from benchmark.reports.tables import short_commit
from benchmark.sweeps.points import Repeats, subject
from benchmark.tables import MISSING, Table, one_line, text
from common.words import counted

WIDE_SPREAD = 0.05  # of the median, between the lowest and the highest repeat
GOOD, DOUBTFUL, BAD = "OK", "With care", "Unusable"


class Verdict(NamedTuple):
    """Whether to believe a figure."""

    word: str
    why: str

    def __str__(self) -> str:
        return f"{self.word}: {self.why}"


class Tile(NamedTuple):
    """One figure of the card."""

    what: str
    value: str
    unit: str
    details: Mapping[str, str]
    """By what they are: "settings", "of peak", "energy"; none is empty."""
    verdict: Verdict

    def plain(self) -> str:
        """Lines of a terminal, indented under the first."""
        lines = (self.what, f"{self.value} {self.unit}", *self.details.values(), str(self.verdict))
        return "\n  ".join(map(one_line, lines)) + "\n"

    def html(self) -> str:
        """A part of a page."""
        details = "".join(f"<p>{escape(words)}</p>" for words in self.details.values())
        kind = {GOOD: "good", DOUBTFUL: "care", BAD: "bad"}[self.verdict.word]
        return (
            f'<div class="tile"><h3>{escape(self.what)}</h3><p class="value"><strong>{escape(self.value)}</strong> '
            f'{escape(self.unit)}</p>{details}<p><strong class="{kind}">{self.verdict.word}</strong>: '
            f"{escape(self.verdict.why)}</p></div>"
        )


class Card(NamedTuple):
    """All of it."""

    facts: Sequence[str]
    tiles: Sequence[Tile]

    def html(self) -> str:
        """The first part of a page."""
        tiles = "".join(tile.html() for tile in self.tiles)
        facts = "".join(f"<li>{escape(fact)}</li>" for fact in self.facts)
        return f'<section class="card"><h2>Report card</h2><ul>{facts}</ul><div class="tiles">{tiles}</div></section>\n'

    def plain(self) -> str:
        """For a terminal."""
        tiles = "".join(tile.plain() for tile in self.tiles)
        return "\n".join(filter(None, [" | ".join(self.facts), tiles]))

    def table(self) -> Table:
        """For Markdown."""
        rows = [
            {"what": tile.what, "figure": f"{tile.value} {tile.unit}", **tile.details, "verdict": str(tile.verdict)}
            for tile in self.tiles
        ]
        return Table("Report card", rows, [". ".join(self.facts) + "."] if self.facts else [])


def make_card(results: Sequence[Result]) -> Card:
    """The best of each workload, and what each run has learned."""
    runs = [run for result in results for run in result.runs]
    tiles = [*map(workload_tile, measured(results)), *(tile for run in runs for tile in _run_tiles(run))]
    return Card(_facts([point.get("environment") or {} for result in results for point in result.points], runs), tiles)


def _facts(environments: Iterable[Mapping[str, Any]], runs: Iterable[Run]) -> list[str]:
    told = [each for each in (*environments, *(run.environment for run in runs)) if each]

    def values(name: str) -> list[Any]:
        return [each[name] for each in told if each.get(name)]

    def joined(words: Iterable[str]) -> str:
        return " and ".join(sorted(set(words)))

    gpus = joined(f"{len(names)} x {' / '.join(dict.fromkeys(names))}" for names in values("gpus"))
    days = sorted(str(time)[:10] for time in values("time"))
    facts = {
        "": gpus or joined(values("cpu")),
        "PyTorch ": joined(values("torch")),
        "measured on ": " to ".join(dict.fromkeys((days[0], days[-1]))) if days else "",
        "version ": joined(values("version")),
        "commit ": joined(_commit(each) for each in told if each.get("git_commit")),
    }
    return [name + words for name, words in facts.items() if words]


def _commit(environment: Mapping[str, Any]) -> str:
    return short_commit(environment["git_commit"]) + (
        " with uncommitted changes" if environment.get("git_dirty") else ""
    )


def workload_tile(group: Sequence[Repeats]) -> Tile:
    """The fastest settings of one workload."""
    right = [repeats for repeats in group if repeats.status == "ok" and repeats.values("sequences_per_second")]
    best = max(right, key=lambda repeats: repeats.median("sequences_per_second") or 0, default=None)
    what = subject(group[0].configuration)
    if best is None:
        wrong = next((repeats.problem for repeats in group if repeats.problem), None)
        ends = ", ".join(dict.fromkeys(repeats.state for repeats in group))
        return Tile(what, MISSING, "sequences/s", {}, Verdict(BAD, wrong or f"no rate was measured ({ends})."))
    gpus, unit = best.configuration.get("n_gpus") or 1, "GPUs" if best.unit == "GPU" else "processes"
    details = {
        "settings": f"{best.name}, batch {best.batch_size:,}",
        "each": f"{text(best.median('sequences_per_second_per_gpu'), ',.1f')} per {best.unit}" if gpus > 1 else "",
        "of peak": _share_of_peak(best),
        "energy": _energy(best),
    }
    rate = text(best.median("sequences_per_second"), ",.1f")
    told = {name: words for name, words in details.items() if words}
    return Tile(what, rate, f"sequences/s{f' of {gpus} {unit}' if gpus > 1 else ''}", told, verdict(best))


def _share_of_peak(best: Repeats) -> str:
    share, alone = (best.median("fraction", name) for name in ("utilisation", "measured_peak"))
    words = []
    if share is not None:
        peak = (best.told("peak", "utilisation") or ["data sheet"])[0]
        tflops = text(best.median("peak_tflops", "utilisation"), ",g")
        words.append(f"{share:.1%} of {tflops} TFLOP/s ({peak})")
    if alone is not None:
        words.append(f"{alone:.1%} of its matmuls alone")
    if not words and best.configuration.get("precision") == "fp8":
        words.append("share of peak not known: matmuls ran in fp8 and bf16")
    return "; ".join(words) or "share of peak not known"


def _energy(best: Repeats) -> str:
    per_joule = best.median("sequences_per_joule")
    return f"{1 / per_joule:.3g} J per sequence" if per_joule else ""


def verdict(best: Repeats) -> Verdict:
    """Of a rate whose loss is plausible: how many repeats say it, and what speaks against it."""
    rates, median = best.values("sequences_per_second"), best.median("sequences_per_second") or 1
    spread = (max(rates) - min(rates)) / median
    doubts = [f"{count} {end}" for end, count in best.ended.items() if end != "ok"]
    if len(rates) == 1:
        doubts.append("one measurement, so its spread is not known")
    elif spread > WIDE_SPREAD:
        doubts.append(f"{len(rates)} repeats differ by {spread:.1%}")
    reasons = dict.fromkeys(reason for gpu in best.told("gpu") for reason in gpu.get("throttle_reasons") or ())
    said = [f"{len(rates)} repeats within {spread:.1%}"] if len(rates) > 1 and spread <= WIDE_SPREAD else []
    said += ["its loss is plausible"] if best.values("final_loss") else []
    said += [f"clocks were lowered by {', '.join(reasons)}"] if reasons else []
    return Verdict(DOUBTFUL if doubts else GOOD, ", ".join([*doubts, *said]) + ".")


def _run_tiles(run: Run) -> Iterator[Tile]:
    for name, scores in run.scored.items():
        exact = {"exact match": f"exact match {text(scores['exact_match'], '.1f')}"}
        details = exact | ({"steps": f"after {counted(scores['steps'], 'step')}"} if scores.get("steps") else {})
        yield Tile(
            f"SQuAD: {Path(name).name}, {run.label}", text(scores.get("f1"), ".1f"), "F1", details, _learned(run)
        )
    if run.task == "glue" and "score" in run.summary:
        yield Tile(f"GLUE, {run.label}", text(run.summary["score"], ".1%"), "score", {}, _learned(run))
    if run.task == "pretraining" and run.phases:
        yield _pretraining_tile(run)


def _pretraining_tile(run: Run) -> Tile:
    """The last accuracy on held-out sequences, or the loss where none was scored."""
    number = max(run.phases)
    phase, cells = run.phases[number], run.phases[number].cells()
    step = max(phase.evaluations, default=None)
    value, unit = cells["loss at end"], "training loss at the end"
    if step is not None:
        value, unit = text(phase.evaluations[step]["eval_mlm_accuracy"], ".1%"), "of held-out masked tokens right"
    details = {"steps": f"after {cells['steps'] if step is None else f'{step:,}'} steps of {run.name_of(number)}"}
    if cells["sequences/s"] != MISSING:
        details["rate"] = f"{cells['sequences/s']} sequences/s"
    return Tile(f"Pre-training, {run.label}", value, unit, details, _learned(run))


def _learned(run: Run) -> Verdict:
    """Whether a run is right, by its own verdict and its losses."""
    problems = [phase.throughput.get("loss_problem") for phase in run.phases.values()]
    problem = next(filter(None, [*problems, run.summary.get("loss_problem")]), None)
    losses = [loss for phase in run.phases.values() for _, loss in phase.curve("average_loss")]
    lost = sum(loss != loss or abs(loss) == float("inf") for loss in losses)
    if problem:
        return Verdict(BAD, problem)
    if lost:
        return Verdict(DOUBTFUL, f"{counted(lost, 'logged loss is', 'logged losses are')} no number.")
    if len(losses) < 2:
        return Verdict(DOUBTFUL, "too few losses were logged to see it learn.")
    fell = losses[-1] < losses[0]
    change = f"{'fell' if fell else 'rose'} from {losses[0]:.3f} to {losses[-1]:.3f}."
    return Verdict(GOOD if fell else DOUBTFUL, f"its loss {change}")
