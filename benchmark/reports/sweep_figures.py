"""The pictures of a sweep: throughput, memory, clocks and power over batch sizes, and what a step's time is made of."""

import itertools
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence

from benchmark.reports.drawing import MOST_ROWS, Figure, Series
from benchmark.reports.published import references_for
from benchmark.sweeps.points import Repeats, subject
from benchmark.tables import number

GIB = 2**30


def sweep_figures(group: Sequence[Repeats]) -> Iterator[Figure]:
    """The figures of one subject, not yet drawn. Those over batch sizes need two that were measured."""
    yield from _over_sizes(group, "Throughput", "sequences/s per {}", _rates)
    yield from _breakdown(group)
    yield from _step_times(group)
    yield from _over_sizes(group, "Memory", "GiB of peak memory", _memory)
    yield from _over_sizes(group, "Clock", "MHz, mean of a run", lambda each: _telemetry(each, "sm_clock_mhz"))
    yield from _over_sizes(group, "Power", "W, mean of a run", lambda each: _telemetry(each, "power_watts"))


def has_line(group: Sequence[Repeats]) -> bool:
    """Whether anything was measured at two batch sizes: a single mark is no picture."""
    return any(len(_measured(row)) > 1 for _, row in _lines(group))


def _lines(group: Sequence[Repeats]) -> Iterator[tuple[str, list[Repeats]]]:
    for name, row in itertools.groupby(group, lambda repeats: repeats.name):
        yield name, list(row)


def _measured(row: Sequence[Repeats], values: Callable[[Repeats], list[float]] | None = None) -> list[Repeats]:
    return [repeats for repeats in row if repeats.status == "ok" and (values or _rates)(repeats)]


def _rates(repeats: Repeats) -> list[float]:
    return repeats.values("sequences_per_second_per_gpu")


def _memory(repeats: Repeats) -> list[float]:
    return [value / GIB for value in repeats.values("peak_memory_allocated_bytes")]


def _telemetry(repeats: Repeats, name: str) -> list[float]:
    told = [number((gpu.get(name) or {}).get("mean")) for gpu in repeats.told("gpu")]
    return [value for value in told if value is not None]


def _named(group: Sequence[Repeats], kind: str, title: str) -> tuple[str, str]:
    """Name and title of a figure; the title has the machine, as a slide shows a picture alone."""
    configuration = group[0].configuration
    machines = " and ".join(dict.fromkeys(repeats.hardware for repeats in group if repeats.hardware))
    title = ", ".join(filter(None, [f"{title}: {subject(configuration)}", machines]))
    return f"{kind}_{configuration.get('workload')}_{configuration.get('max_seq_length')}", title


def _over_sizes(
    group: Sequence[Repeats], title: str, unit: str, values: Callable[[Repeats], list[float]]
) -> Iterator[Figure]:
    """A line for each series through the medians of what succeeded, crosses for the rest, and what was published."""
    if not any(len(_measured(row, values)) > 1 for _, row in _lines(group)):
        return
    series, unit = [_line(name, row, values) for name, row in _lines(group)], unit.format(group[0].unit)
    marks = [(y, x) for line in series for x, y in zip(line.x, line.y, strict=True)]
    (lowest, least), (highest, most) = min(marks), max(marks)
    finding = f"Highest: {highest:,.1f} {unit}, at {most} per step. Lowest: {lowest:,.1f}, at {least}."
    ended = [repeats.batch_size for repeats in group if repeats.status == "out of memory"]
    finding += f" Memory ends at {min(ended)}." if ended else ""
    published = references_for(group[0].configuration) if title == "Throughput" else []
    series += [
        Series(f"{each['gpu']}, {each['system']}: {each['rate']:,g}", [], [each["rate"]], "guide") for each in published
    ]
    finding += " Grey lines were published by others, for other hardware, precision or software." if published else ""
    x_label, ticks = f"sequences per {group[0].unit} and step", sorted({repeats.batch_size for repeats in group})
    yield Figure(*_named(group, title.lower(), title), finding, series, x_label, unit, ticks)


def _line(name: str, row: Sequence[Repeats], values: Callable[[Repeats], list[float]]) -> Series:
    told = [(repeats.batch_size, values(repeats)) for repeats in _measured(row, values)]
    medians = [statistics.median(each) for _, each in told]
    below = [median - min(each) for median, (_, each) in zip(medians, told, strict=True)]
    above = [max(each) - median for median, (_, each) in zip(medians, told, strict=True)]
    crosses = [(repeats.batch_size, repeats.status) for repeats in row if repeats.status != "ok"]
    return Series(name, [size for size, _ in told], medians, spread=(below, above), crosses=crosses)


def _in_bars(group: Sequence[Repeats]) -> list[Repeats]:
    """What has a bar: all, or where they are too many the fastest batch size of each line."""
    if len(group) > MOST_ROWS:
        group = [max(row, key=lambda each: each.median("sequences_per_second") or 0) for _, row in _lines(group)]
    return list(group)[-MOST_ROWS:]


def _breakdown(group: Sequence[Repeats]) -> Iterator[Figure]:
    told = [each for each in group if sum(each.parts.values()) > 0]
    steps = {(each.batch_size, each.name): each.parts for each in _in_bars(told)}
    if not steps:
        return
    names = dict.fromkeys(name for parts in steps.values() for name in parts)
    shares = {name: [parts.get(name, 0) / sum(parts.values()) for parts in steps.values()] for name in names}
    rows = _rows(steps, [f"{sum(parts.values()) * 1e3:,.1f} ms" for parts in steps.values()])
    series = [Series(name, [], [share * 100 for share in row], "bars") for name, row in shares.items()]
    finding = f"{_last(steps)}: {', '.join(f'{name} {row[-1]:.1%}' for name, row in shares.items() if row[-1])}."
    yield Figure(*_named(group, "step", "Where a step goes"), finding, series, "% of the step", rows=rows)


def _step_times(group: Sequence[Repeats]) -> Iterator[Figure]:
    """How far steps are from their median: all of them, and nine of ten."""
    told = _in_bars([each for each in group if each.step_percentiles])
    steps = {(each.batch_size, each.name): each.step_percentiles for each in told}
    if not steps:
        return
    rows = _rows(steps, [f"median {told['p50'] * 1e3:,.1f} ms" for told in steps.values()])
    ends = {"all steps": ("min", "max"), "5 % to 95 % of them": ("p5", "p95")}
    series = [
        Series(label, *([100 * told[end] / told["p50"] for told in steps.values()] for end in both), "spans")
        for label, both in ends.items()
    ]
    last = list(steps.values())[-1]
    p95, p99, most = (f"{last[name] * 1e3:,.1f}" for name in ("p95", "p99", "max"))
    finding = f"{_last(steps)}: 95 % of the steps take at most {p95} ms, 99 % at most {p99}, the longest {most}."
    name, title = _named(group, "step_times", "Times of steps")
    yield Figure(name, title, finding, series, "% of the median step", rows=rows)


def _rows(steps: Iterable[tuple[int, str]], times: Sequence[str]) -> list[str]:
    """Words over bars: batch size, time, and what of the settings is not the same in all of them."""
    named = [(size, name.split(", ")) for size, name in steps]
    everywhere = set.intersection(*(set(words) for _, words in named))
    return [
        ", ".join([f"batch {size}", time, *(word for word in words if word not in everywhere)])
        for (size, words), time in zip(named, times, strict=True)
    ]


def _last(steps: Iterable[tuple[int, str]]) -> str:
    """The settings of the last row, whole."""
    size, name = list(steps)[-1]
    return f"Batch {size} ({name})"
