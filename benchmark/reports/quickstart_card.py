"""The card at the end of the quickstart: what its pre-training and its fine-tuning came to, in a dozen lines."""

import datetime

from benchmark.logs import Phase, Run
from benchmark.tables import text
from common.words import counted


def card(pretraining: Run, squad: Run) -> dict[str, str]:
    """Values in words, by what they are of. The environment is that of the pre-training."""
    environment, phases = pretraining.environment, pretraining.phases
    last = phases[max(phases)]
    rows = {"hardware": f"{_hardware(environment)}, {last.settings['precision']}"}
    rows |= {pretraining.name_of(number): _phase(phase) for number, phase in phases.items()}
    rows["share of peak"] = _share_of_peak(phases[min(phases)], environment)
    rows["held-out"] = f"{text(last.scores.get('eval_mlm_accuracy'), '.1%')} of the masked tokens are found"
    for name, scores in squad.scored.items():
        kind = "trained on" if name == (squad.phases[1].settings["arguments"]["train_file"]) else "new"
        told = f"EM {text(scores['exact_match'], '.1f')}, F1 {text(scores.get('f1'), '.1f')}"
        rows[f"SQuAD, {kind}"] = f"{told} on {text(scores.get('total'), ',.0f')} questions"
    rows["date"] = f"{datetime.datetime.now():%Y-%m-%d %H:%M}"
    rows["commit"] = (
        f"{(environment.get('git_commit') or 'unknown')[:10]}{', changed' * bool(environment.get('git_dirty'))}"
    )
    return rows


def _hardware(environment: dict) -> str:
    gpus = environment.get("gpus") or []
    return gpus[0] if gpus else f"{environment['cpu']}, {counted(environment['cpu_cores'], 'core')}"


def _phase(phase: Phase) -> str:
    cells = phase.cells()
    return (
        f"{cells['sequences/s']} sequences/s, {cells['tokens/s']} tokens/s; "
        f"loss {cells['loss at start']} to {cells['loss at end']} in {cells['steps']} steps"
    )


def _share_of_peak(phase: Phase, environment: dict) -> str:
    peak = phase.throughput.get("utilisation")
    if peak:
        return f"{peak['fraction']:.1%} of {peak['peak_tflops']:,g} TFLOP/s ({peak['peak']}), in phase 1"
    what = f"this GPU in {phase.settings['precision']}" if environment.get("gpus") else "this CPU"
    return f"no peak known for {what}"
