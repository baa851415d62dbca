"""A run's end in a dozen rows, for people. The log's last line has all of it, and exactly."""

from collections.abc import Iterator, Mapping
from typing import Any

from common.words import counted
from training.metrics.progress import number, span, speeds

Row = tuple[str, str]


def final_table(summary: Mapping[str, Any], scores: Mapping[str, str], loss_names: tuple[str, ...]) -> list[str]:
    """Lines of two columns.

    Args:
        summary: the log's last line.
        scores: of the last evaluation, from `Task.scores_in_words`.
        loss_names: the task's; the first is what is trained on.
    """
    rows = [*_losses(summary, loss_names), *scores.items(), *_throughput(summary), *_rest(summary)]
    width = max(len(name) for name, _ in rows)
    lines = [f"  {name:{width}}  {value}" for name, value in rows]
    if reason := summary.get("not_measured"):
        lines.append(reason)
    return lines


def _losses(summary: Mapping[str, Any], names: tuple[str, ...]) -> Iterator[Row]:
    total, *parts = (summary.get(f"final_{name}") for name in names)
    if total is not None:
        said = ", ".join(
            f"{name.removesuffix('_loss')} {part:.4f}" for name, part in zip(names[1:], parts, strict=True)
        )
        yield "training loss", f"{total:.4f}" + (f" ({said})" if said else "")


def _throughput(summary: Mapping[str, Any]) -> Iterator[Row]:
    if not summary.get("measured_steps"):
        return
    yield "throughput", ", ".join(speeds(summary["sequences_per_second"], summary["tokens_per_second"], 1))
    if per_gpu := summary.get("sequences_per_second_per_gpu"):
        yield "of each rank", f"{number(per_gpu)} seq/s"
    yield "step", f"{number(summary['step_seconds'] * 1000)} ms, over {counted(summary['measured_steps'], 'step')}"
    if flops := summary.get("model_tflops_per_second"):
        share = (summary.get("utilisation") or {}).get("fraction")
        speed = f"{number(flops)} TFLOP/s" if flops >= 0.1 else f"{number(flops * 1000)} GFLOP/s"
        yield "compute", speed + (f", {share:.1%} of peak" if share else "")
    if memory := summary.get("peak_memory_allocated_bytes"):
        yield "GPU memory", f"{memory / 2**30:.1f} GiB at most"
    if energy := summary.get("sequences_per_joule"):
        yield "energy", f"{number(energy)} seq/J"


def _rest(summary: Mapping[str, Any]) -> Iterator[Row]:
    for name, label in (("skipped_steps", "skipped steps"), ("nonfinite_losses", "losses that are no number")):
        if summary.get(name):
            yield label, f"{summary[name]:,}"
    useful = f", {summary['goodput']:.0%} of it in steps" if "goodput" in summary else ""
    yield "time", f"{span(summary['e2e_time'])}{useful}"
