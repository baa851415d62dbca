"""The sections of a report: one for each workload, with its table, its notes and its pictures together."""

from collections.abc import Iterator, Sequence
from html import escape
from typing import NamedTuple

from benchmark.reports.compare import comparison_table
from benchmark.reports.data import Result, measured
from benchmark.reports.drawing import Figure, render
from benchmark.reports.profile_figures import profile_figures
from benchmark.reports.published import published_table
from benchmark.reports.run_figures import run_figures
from benchmark.reports.sweep_figures import has_line, sweep_figures
from benchmark.reports.tables import (
    environment_table,
    profiles_table,
    published_losses_table,
    runs_table,
    throughput_table,
)
from benchmark.sweeps.points import Repeats
from benchmark.tables import Table, escape_markdown
from common.errors import UserError


class Section(NamedTuple):
    """What is said of one thing. The first table has its heading; others without rows are left out."""

    tables: Sequence[Table]
    figures: Sequence[Figure] = ()
    remark: str = ""
    """A sentence in place of pictures."""

    def markdown(self) -> str:
        """A chapter."""
        first, *others = self.tables
        remark = [f"{escape_markdown(self.remark)}\n"] if self.remark else []
        parts = [first.markdown(), *remark, *(each.markdown() for each in self.figures)]
        return "\n".join([*parts, *(table.markdown("###") for table in others if table.rows)])

    def html(self) -> str:
        """A part of a page."""
        first, *others = self.tables
        remark = f'<p class="soft">{escape(self.remark)}</p>' if self.remark else ""
        pictures = "".join(figure.html() for figure in self.figures)
        pictures = f'<div class="figures">{pictures}</div>' if pictures else ""
        rest = "".join(table.html("h3") for table in others if table.rows)
        return f"<section>{first.html()}{remark}{pictures}{rest}</section>\n"


def make_sections(results: Sequence[Result], compare: bool) -> list[Section]:
    """All that the results have data for, drawn, the most wanted first."""
    return named(list(plan_sections(results, compare)))


def plan_sections(results: Sequence[Result], compare: bool) -> Iterator[Section]:
    """The sections, whose pictures are not yet drawn; those without a row are left out."""
    if compare:
        yield from _comparisons(results)
    yield from map(_workload, measured(results))
    runs = [run for result in results for run in result.runs]
    profiles = [profile for result in results for profile in result.profiles]
    if any(run.phases for run in runs):
        figures = list(run_figures(runs))
        remark = "" if figures else "No run logged two steps, so there is no curve."
        yield Section([runs_table(runs), published_losses_table(runs)], figures, remark)
    if profiles:
        yield Section([profiles_table(profiles)], [figure for each in profiles for figure in profile_figures(each)])
    environment = environment_table(results)
    if environment.rows:
        yield Section([environment])


def _comparisons(results: Sequence[Result]) -> Iterator[Section]:
    tables = [comparison_table(results[0], other) for other in results[1:]]
    if not any(table.rows for table in tables):
        nothing = f"{results[0].label} has no configuration in common with the others"
        raise UserError(nothing, "sweep the same batch sizes, lengths and windows")
    yield from (Section([table]) for table in tables)


def _workload(group: Sequence[Repeats]) -> Section:
    remark = "" if has_line(group) else "No two batch sizes were measured, so there is no picture over batch sizes."
    tables = [throughput_table(group), published_table(group[0].configuration)]
    return Section(tables, list(sweep_figures(group)), remark)


def named(sections: Sequence[Section]) -> list[Section]:
    """The sections with their pictures drawn, under names that become files: plain, and different."""
    names: list[str] = []

    def draw(figure: Figure) -> Figure:
        names.append("".join(sign if sign.isalnum() else "_" for sign in figure.name).strip("_").lower())
        same = names.count(names[-1])
        return render(figure._replace(name=f"{names[-1]}_{same}" if same > 1 else names[-1]))

    return [section._replace(figures=[*map(draw, section.figures)]) for section in sections]
