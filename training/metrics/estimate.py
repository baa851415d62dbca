"""How long a run will take, said before it begins: its FLOPs over what hardware like this reaches. An estimate."""

import dataclasses

import torch

from common.errors import Problem
from common.words import counted
from common.work import Work
from training.metrics.peaks import find_data_sheet
from training.metrics.progress import span
from training.task import Start, Task

SHARE_OF_PEAK = 0.4  # of a data sheet's; BERT-large on one H200 (docs/performance-log.md)
CPU_FLOPS = 5e10  # of a thread, per second, in fp32; BERT-base and tiny on a virtual machine
LONGEST_ON_CPU = 24 * 3600  # seconds, above which a run is asked for once more


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What a run asks for, what is here for it, and the time that follows."""

    asked: str
    here: str
    how: str
    n_steps: int
    seconds_per_step: float | None
    """None where nothing is known of the GPU."""

    def __str__(self) -> str:
        if self.seconds_per_step is None:
            return f"asked: {self.asked} | here: {self.here} | no estimate of the time: {self.how}"
        each, all_ = span(self.seconds_per_step), span(self.seconds_per_step * self.n_steps)
        return f"asked: {self.asked} | here: {self.here} | estimate: {each} a step, {all_} in all, {self.how}"


def estimate(task: Task, start: Start, n_processes: int) -> Estimate:
    """Of a task with resolved settings that trains; as if every sequence were of full length."""
    settings, device = task.settings, task.settings.device
    n_sequences, length, precision = settings.batches.overall, settings.max_seq_length, settings.precision.name
    n_masked = n_sequences * getattr(settings.task, "max_predictions_per_seq", 0)
    flops = task.flops(Work(n_sequences, n_sequences * length, n_sequences * length**2, n_masked))
    n_steps = max(start.last_step - start.first_step, 0)
    asked = f"{counted(n_steps, 'step')} of {counted(n_sequences, 'sequence')} of {length} tokens"
    if device.type == "cpu":
        threads = n_processes * torch.get_num_threads()
        how = f"at {CPU_FLOPS / 1e9:g} GFLOP/s a thread"
        return Estimate(asked, f"a CPU, {counted(threads, 'thread')}", how, n_steps, flops / (threads * CPU_FLOPS))
    name = torch.cuda.get_device_name(device)
    sheet, here = find_data_sheet(name), f"{n_processes} x {name}"
    peak = sheet.tflops.get("bf16" if precision == "fp8" else precision) if sheet else None
    if peak is None:
        return Estimate(asked, here, f"the {precision} peak of this GPU is not known", n_steps, None)
    how = f"at {SHARE_OF_PEAK:.0%} of the data sheet's {peak:g} TFLOP/s"
    return Estimate(asked, here, how, n_steps, flops / (n_processes * peak * 1e12 * SHARE_OF_PEAK))


def too_long_problem(found: Estimate) -> Problem | None:
    """Why a run on a CPU is to be asked for once more; None where it ends within a day."""
    seconds = (found.seconds_per_step or 0) * found.n_steps
    if seconds <= LONGEST_ON_CPU:
        return None
    return Problem(
        f"{found.asked} would take about {span(seconds)} on {found.here} (an estimate, {found.how})",
        "use a GPU, a smaller model, a smaller batch or fewer steps, or add --long_cpu_run to train all the same",
    )
