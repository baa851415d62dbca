#!/usr/bin/env python3
"""Pre-train Hugging Face's BERT as run_pretraining.py pre-trains ours: the other side of a comparison.

  python3 benchmark/huggingface_pretraining.py --do_train --input_dir DIR --eval_dir DIR --output_dir DIR \\
      --bert_model base --optimizer adamw --max_seq_length 128 --max_predictions_per_seq 20 --train_batch_size 512 \\
      --micro_batch_size 256 --max_steps 4400 --precision bf16 --compile

Initial weights, loader, order of the data, schedule, clipping, evaluation, checkpoints and log are those of
run_pretraining.py, and so are the flags; only the model is that of transformers. AdamW is PyTorch's fused kernel. Where
no --micro_batch_size is given, a GPU gets the one that fits our model; Hugging Face's takes more memory.
"""

import dataclasses
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import MappingProxyType

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    __import__("common.packages").packages.explain_missing()
from torch import nn

from benchmark.workloads.hugging_face import HuggingFaceBert
from common.errors import Problem, Problems, run_main
from common.packages import install_command
from models.config import BertConfig
from tasks.pretraining.task import PretrainingTask
from tasks.setup import run
from training.config.settings import Settings

# Flags of our model's own ways, and the value that leaves each out.
OURS_ALONE = MappingProxyType(
    {
        "kernels": "torch",
        "attention": None,
        "cuda_graphs": False,
        "checkpoint_activations": False,
        "layer_norm": "torch",
        "no_dense_sequence_output": False,
        "init_checkpoint": None,
    }
)


class HuggingFacePretraining(PretrainingTask):
    """Pre-training of transformers' model."""

    description = __doc__
    defaults = {"kernels": "torch", "cuda_graphs": False}  # noqa: RUF012  # as the class that it derives from has it
    model_class = HuggingFaceBert

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from model_problems(self.settings)

    def read_model(self, problems: Problems) -> BertConfig | None:
        config = super().read_model(problems)
        if importlib.util.find_spec("transformers") is None:
            remedy = f"install it: {install_command('requirements-dev.txt')}"
            problems.add("Hugging Face's model needs the package transformers, which is not installed", remedy)
            return None  # whoever knows a shape would make the model
        implementation = f"transformers {importlib.metadata.version('transformers')}"
        record = {**self.settings.record, "implementation": implementation}
        self.settings = dataclasses.replace(self.settings, record=record)
        return config

    def make_model(self) -> nn.Module:
        settings = self.settings
        model = HuggingFaceBert(settings.model).to(settings.device)  # drawn on the CPU, as ours are
        model.compute_dtype = settings.precision.compute_dtype
        if settings.runtime.compile:
            model.model.compile(dynamic=False)  # the last batch of an evaluation must not slow all others down
        return model


def model_problems(settings: Settings) -> Iterator[Problem]:
    """Flags that say how our model runs, or what it starts from, and that this one has no use for."""
    for name, absent in OURS_ALONE.items():
        if (value := settings.record.get(name)) != absent:
            yield Problem(f"--{name} {value} is for our model, and this is Hugging Face's", "leave it out")
    if settings.precision_name == "fp8":
        yield Problem("--precision fp8 is for our model, and this is Hugging Face's", "use bf16")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what the command line asks for."""
    run(HuggingFacePretraining, arguments)


if __name__ == "__main__":
    run_main(main)
