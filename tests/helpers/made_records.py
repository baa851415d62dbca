"""Records of measurements that never were, with figures that can be worked out by hand."""

import json

import made_points

ENVIRONMENT = {
    "time": "2026-01-02T03:04:05+00:00",
    "torch": "2.13.0+cu130",
    "gpus": ["NVIDIA H200", "NVIDIA H200"],
    "driver": "580.1",
    "cuda": "13.0",
    "nccl": "2.28.9",
    "python": "3.12.3",
    "cpu_cores": 16,
    "git_commit": "0123456789abcdef",
    "git_dirty": False,
    "version": "0.9.0",
    "command_line": "run_pretraining.py",
}
# Workload, length, lengths, micro-batch, and sequences/s of one GPU in bf16; fp8 has a quarter more.
WORK = (
    ("pretrain", 128, "full", 256, 2000.0),
    ("pretrain", 512, "full", 64, 400.0),
    ("pretrain", 512, "evenly around 254", 128, 900.0),
    ("squad", 384, "full", 32, 600.0),
)


def points():
    """Of BERT-large in bf16 and fp8 on one and two GPUs, reduced after one micro-batch (1.9) and after four (1.96)."""
    for workload, length, lengths, micro_batch, rate in WORK:
        for precision, faster in (("bf16", 1.0), ("fp8", 1.25)):
            for n_gpus, steps, times in ((1, 1, 1.0), (1, 4, 1.0), (2, 1, 1.9), (2, 4, 1.96)):
                made = made_points.point(
                    rate * faster * times,
                    workload=workload,
                    max_seq_length=length,
                    lengths=lengths,
                    precision=precision,
                    n_gpus=n_gpus,
                    batch_size=micro_batch * steps,
                    accumulation_steps=steps,
                    flags="--kernels triton",
                    measured={"step_seconds": n_gpus * steps * micro_batch / (rate * faster * times)},
                )
                yield made | {"environment": ENVIRONMENT}


def scaling(records, name="2026-01-02-h200-scaling"):
    return made_points.write(records / name, points())


def hugging_face(records, name="2026-01-02-h200-huggingface"):
    """Ours in bf16 1.5 times, in fp8 twice as fast, at their best batch sizes; others are slower or other variants."""
    folder = records / name
    folder.mkdir(parents=True)
    lines = []
    for task, length, best in (("pretraining", 128, 1600.0), ("pretraining", 512, 300.0), ("squad", 384, 400.0)):
        rates = {"hf-compiled": best, "triton-attention": 1.5 * best, "fp8+graphs": 2 * best, "fp8-weights": 9 * best}
        lines += [
            {"schema": 1, "model": "large", "task": task, "max_seq_length": length, "mean_length": None}
            | {"variant": variant, "batch_size": size, "sequences_per_second": rate * share, "environment": ENVIRONMENT}
            for variant, rate in rates.items()
            for size, share in ((64, 0.5), (128, 1.0))
        ]
    (folder / "steps.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return folder


def quality(records, name="2026-01-02-time-to-quality"):
    """Two seeds each: 41 % after 100 and 110 s in bf16, 43 % after 200 and 220 s; in fp8 0.9 of that, theirs twice."""
    for variant, times in (("bf16", 1.0), ("fp8", 0.9), ("huggingface", 2.0)):
        for seed in (1, 2):
            folder = records / name / variant / f"seed_{seed}"
            folder.mkdir(parents=True)
            slower = times * (1.0 + 0.1 * (seed - 1))
            lines = [_event(0, "PARAMETER", _settings(variant, seed)), _event(1001, [0, 0], _scored(1.0, 0.0))]
            lines += [_event(1010, [0, 1], {"average_loss": 10.0})]
            for n, accuracy in enumerate((0.41, 0.44), 1):
                clock = 10.0 + 100 * n * slower
                lines.append(_event(1000 + clock, [0, 100 * n], _scored(clock, accuracy)))
            lines.append(_event(2000, [], {"sequences_per_second": 6000.0 / slower}))
            (folder / "dllogger.json").write_text("".join(lines), encoding="utf-8")
    return records / name


def _settings(variant, seed):
    flags = {"eval_dir": "data", "max_steps": 200, "seed": seed, "num_steps_per_evaluation": 100}
    flags |= {"target_mlm_accuracy": 0.43, "skip_checkpoint": True, "do_train": True}
    return {"arguments": flags, "precision": variant, "environment": ENVIRONMENT, "batches": {"global": 512}}


def _scored(seconds, accuracy):
    return {"eval_mlm_accuracy": accuracy, "training_seconds": seconds, "eval_n_sequences": 1000}


def _event(time, step, data):
    return f"DLLL {json.dumps({'timestamp': str(time), 'type': 'LOG', 'step': step, 'data': data})}\n"


def page(folder, title="Made up"):
    """A record's own page."""
    text = f"# {title}\n\n<!-- record: conditions -->\n<!-- end -->\n"
    (folder / "README.md").write_text(text, encoding="utf-8")
