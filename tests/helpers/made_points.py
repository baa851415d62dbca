"""Points of sweeps that never ran, with figures that can be worked out by hand."""

import json

KERNELS = {
    "schema": 1,
    "kind": "kernels",
    "source": "ncu",
    "device": "H200",
    "core_utilisation": {"tensor": 0.5, "sm": 0.75},
    "kernels": [
        {"name": "gemm", "launches": 2, "seconds": 0.003, "share": 0.75, "flops": 1.5e12, "dram_bytes": 1e9},
        {"name": "copy", "launches": 1, "seconds": 0.001, "share": 0.25, "flops": 1e9, "dram_bytes": 2e9},
    ],
    "ceilings": {"tensor_flops_per_second": 1e15, "dram_bytes_per_second": 4e12},
}
TIMELINE = {
    "schema": 1,
    "kind": "timeline",
    "source": "torch",
    "span_seconds": 0.2,
    "busy_seconds": 0.15,
    "launch_gaps": {"count": 7, "seconds": 0.05},
    "steps": [{"seconds": 0.2}],
    "kernels": [{"name": "gemm", "launches": 1, "seconds": 0.1, "share": 1.0}],
}


def configuration(**changes):
    usual = {
        "workload": "pretrain",
        "model": "large",
        "max_seq_length": 128,
        "precision": "bf16",
        "compile": False,
        "n_gpus": 1,
        "batch_size": 64,
        "accumulation_steps": 1,
        "optimizer": "lamb",
        "lengths": "full",
        "start": 5,
        "stop": 25,
    }
    return usual | changes


def point(rate=None, status="ok", repeat=0, measured=None, **changes):
    """A point of this many sequences per second, or of another status."""
    made = {
        "schema": 1,
        "status": status,
        "error": None if status == "ok" else "Traceback\nRuntimeError: planted",
        "configuration": configuration(**changes),
        "repeat": repeat,
        "environment": {"torch": "2.13.0", "gpus": ["H200", "H200"]},
        "command": f"python3 run_pretraining.py --repeat {repeat}",
    }
    if status == "ok":
        parts = {"data": 0.01, "forward": 0.03, "backward": 0.05, "optimizer": 0.01}
        figures = {"sequences_per_second": rate, "sequences_per_second_per_gpu": rate, "part_seconds": parts}
        made["measured"] = figures | {"peak_memory_allocated_bytes": 3 * 2**30, "final_loss": 11.02} | (measured or {})
    return made


def write(folder, points):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "points.jsonl").write_text("".join(json.dumps(made) + "\n" for made in points), encoding="utf-8")
    return folder


def sweep(folder, rates, **changes):
    """A sweep of one configuration with a repeat for each rate."""
    return write(folder, [point(rate, repeat=repeat, **changes) for repeat, rate in enumerate(rates)])


def write_log(folder, losses, environment=None):
    folder.mkdir(parents=True, exist_ok=True)
    events = [{"type": "LOG", "step": "PARAMETER", "data": {"environment": environment or {}, "arguments": {}}}]
    events += [
        {"type": "LOG", "step": [step], "data": {"average_loss": loss, "learning_rate": 1e-3}}
        for step, loss in enumerate(losses, 1)
    ]
    (folder / "dllogger.json").write_text("".join(f"DLLL {json.dumps(event)}\n" for event in events), encoding="utf-8")
