#!/usr/bin/env python3
"""How long a checkpoint makes training wait, and how long it takes: the copy to host memory, and the write beside it.

A model with LAMB's moments is saved a few times, on the GPU if there is one. The other ranks of a run wait for the copy
and not for the write. The first save takes longer, and is shown apart.

  python3 benchmark/checkpoint.py --bert_model large --output_dir /where/checkpoints/go
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    __import__("common.packages").packages.explain_missing()
import torch

from benchmark.command_line import count_problems, parser_of
from common.errors import run_main
from common.words import counted
from modeling import BertForPreTraining
from models.config import BERT_CONFIGS, BertConfig
from optimization import build_optimizer, parameter_groups
from training.checkpointing.writer import CheckpointWriter


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--bert_model", choices=BERT_CONFIGS, default="tiny", help="its shape")
    parser.add_argument("--output_dir", help="on the disk to measure, if not in the system's temporary folder")
    parser.add_argument("--repeats", type=int, default=3, help="saves after the first; the median counts")
    return parser.parse_args()


def measure(state: dict[str, Any], folder: str, step: int, device: torch.device) -> tuple[float, float, int]:
    """Seconds that `save` takes, seconds until the file is on disk, and its size in bytes."""
    torch.get_device_module(device).synchronize(device)
    begin = time.perf_counter()
    with CheckpointWriter(print) as writer:
        writer.save(folder, step, state, keep=1)
        stalled = time.perf_counter() - begin
    whole = time.perf_counter() - begin
    return stalled, whole, (Path(folder) / f"ckpt_{step}.pt").stat().st_size


def main() -> None:
    """Measure and print."""
    args = parse_arguments()
    count_problems(args, "repeats").raise_if_any()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = BertForPreTraining(BertConfig.from_json_file(BERT_CONFIGS[args.bert_model])).to(device)
    optimizer = build_optimizer("lamb", parameter_groups(model), 1e-4)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    parts = ("schedule", "training_step", "data_position", "configuration")  # next to nothing, as far as size goes
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), **{part: {} for part in parts}}
    with tempfile.TemporaryDirectory(dir=args.output_dir) as folder:
        first, *saves = (measure(state, folder, step, device) for step in range(args.repeats + 1))
    stall, whole, size = map(statistics.median, zip(*saves, strict=True))
    n_saves = counted(len(saves), "save")
    print(f"{args.bert_model} on {device.type}, {size / 1e9:.2f} GB, median of {n_saves} after the first")
    print(f"training waits {stall:.3f} s of the {whole:.3f} s that a save takes: {stall / whole:.1%}")
    print(f"the first save: {first[0]:.3f} of {first[1]:.3f} s")


if __name__ == "__main__":
    run_main(main)
