#!/usr/bin/env python3
"""How long a checkpoint makes training wait, and how long it takes: the copy to host memory, and the write beside it.

A model with LAMB's moments is saved a few times, on the GPU if there is one. The other ranks of a run wait for the copy
and not for the write.

  python3 benchmark/checkpoint.py --bert_model large --output_dir /where/checkpoints/go
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from modeling import BertForPreTraining
from models.config import BERT_CONFIGS, BertConfig
from optimization import build_optimizer, parameter_groups
from training.checkpointing.writer import CheckpointWriter


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bert_model", choices=BERT_CONFIGS, default="tiny")
    parser.add_argument("--output_dir", default=None, help="on the disk to measure (default: a temporary folder)")
    parser.add_argument("--repeats", type=int, default=4, help="saves; the median counts, the first one is shown apart")
    return parser.parse_args()


def state_of(model: BertForPreTraining, optimizer: torch.optim.Optimizer) -> dict:
    """What a run saves, as far as size goes."""
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": {},
        "training_step": {},
        "data_position": {},
        "configuration": {},
    }


def measure(state: dict, folder: str, step: int, device: torch.device) -> tuple[float, float, int]:
    """Seconds that `save` takes, seconds until the file is on disk, and its size in bytes."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    begin = time.perf_counter()
    with CheckpointWriter(print) as writer:
        writer.save(folder, step, state, keep=1)
        stalled = time.perf_counter() - begin
    whole = time.perf_counter() - begin
    return stalled, whole, (Path(folder) / f"ckpt_{step}.pt").stat().st_size


def main() -> None:
    """Measure and print."""
    args = parse_arguments()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = BertForPreTraining(BertConfig.from_json_file(BERT_CONFIGS[args.bert_model])).to(device)
    optimizer = build_optimizer("lamb", parameter_groups(model), 1e-4)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    with tempfile.TemporaryDirectory(dir=args.output_dir) as folder:
        runs = [measure(state_of(model, optimizer), folder, step, device) for step in range(1, args.repeats + 1)]
    stalls, wholes = [run[0] for run in runs[1:] or runs], [run[1] for run in runs[1:] or runs]
    stall, whole = statistics.median(stalls), statistics.median(wholes)
    print(
        f"{args.bert_model} on {device.type}, {runs[0][2] / 1e9:.2f} GB, median of {len(stalls)} saves after the first"
    )
    print(f"training waits {stall:.3f} s of the {whole:.3f} s that a save takes: {stall / whole:.1%}")
    print(f"the first save: {runs[0][0]:.3f} of {runs[0][1]:.3f} s")


if __name__ == "__main__":
    main()
