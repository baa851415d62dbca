"""What people read of a run's steps while it goes: where it stands, how fast it is and when it ends.

The log has the losses by part, the learning rate and the gradient norm of the same steps. Figures are those of the
steps since the last line, as a run's speed changes; the summary at the end has the throughput that reports quote.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping

from common.work import Work


class Progress:
    """Counts the steps from one line to the next. A line is asked for where the host has waited for the losses anyway.

    Args:
        stage: what the lines begin with, such as "phase 1".
        total_steps: of the stage.
        last_step: of this run, where it ends.
        may_end_before: a score may end the run before its last step.
        world_size: all ranks take as many sequences, and tokens within a few percent.
    """

    def __init__(
        self,
        stage: str,
        total_steps: int,
        last_step: int,
        may_end_before: bool = False,
        world_size: int = 1,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self._stage, self._total_steps, self._last_step = stage, total_steps, last_step
        self._may_end_before, self._world_size, self._clock = may_end_before, world_size, clock
        self._since: float | None = None  # no line yet: the first steps compile and warm up
        self._n_steps, self._work = 0, Work()

    def end_step(self, work: Work) -> None:
        """An optimizer step on so much was taken by this rank."""
        self._n_steps += 1
        self._work += work

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Keep what happens inside (a checkpoint, an evaluation) out of the figures."""
        began = self._clock()
        yield
        if self._since is not None:
            self._since += self._clock() - began

    def line(self, step: int, loss: float) -> str:
        """A line about the steps since the last one; the first of a process has no speed yet."""
        parts = [self._stage, f"step {step:,}/{self._total_steps:,}", f"loss {number(loss)}"]
        now = self._clock()
        if self._since is not None and self._n_steps:
            seconds = max(now - self._since, 1e-9)
            parts += speeds(
                self._world_size * self._work.n_sequences, self._world_size * self._work.sum_lengths, seconds
            )
            if step < self._last_step:
                at_most = " at most" * self._may_end_before
                parts.append(f"ETA {span(seconds / self._n_steps * (self._last_step - step))}{at_most}")
        self._since, self._n_steps, self._work = now, 0, Work()
        return " | ".join(parts)

    def skipped_line(self, step: int, loss_scale: float, n_skipped: int) -> str:
        """A line about a step whose gradient was not finite in fp16; `n_skipped` counts those of the run."""
        what = f"skipped, its gradient is not finite | loss scale {loss_scale:,g} | {n_skipped:,} skipped so far"
        return f"{self._stage} | step {step:,}/{self._total_steps:,} | {what}"


def evaluation_line(step: int, scores: Mapping[str, str]) -> str:
    """A line about what was scored after a step, from `Task.scores_in_words`."""
    return " | ".join(["held-out", f"step {step:,}", *(f"{name} {words}" for name, words in scores.items())])


def speeds(n_sequences: float, n_tokens: float, seconds: float) -> tuple[str, str]:
    """Sequences and tokens per second."""
    sequences, tokens = n_sequences / seconds, n_tokens / seconds
    return (
        f"{sequences:,.0f} seq/s" if sequences >= 100 else f"{number(sequences)} seq/s",
        f"{tokens / 1e6:,.2f} M tok/s" if tokens >= 1e5 else f"{tokens:,.0f} tok/s",
    )


def number(value: float) -> str:
    """With three digits that count: 8.23, 0.0312, 10.9, 1,234."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}"


def span(seconds: float) -> str:
    """In the two largest units that it fills, below ten seconds with two digits that count."""
    if seconds < 99.5:
        return f"{seconds:#.2g} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24:,} d {hours % 24} h"
