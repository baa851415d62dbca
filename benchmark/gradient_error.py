#!/usr/bin/env python3
"""How far the gradients of a format are from those in fp32, beside how far two batches are from each other.

  python3 benchmark/gradient_error.py                                   # tiny, random weights and tokens, on a CPU
  python3 benchmark/gradient_error.py --bert_model base --input_dir SHARDS --init_checkpoint results/base \
      --variants triton-attention fp8 fp8-weights                       # on a GPU

All variants compute the gradients of the same batch from the same weights, without dropout. A cell is the norm of the
difference over the norm of the gradient in fp32, over all weights of a kind. The last column says the same of another
batch in fp32: the noise that training has in any format. Random weights and tokens show little, as gradients are then
those of a model that has learned nothing.
"""

import argparse
import dataclasses
import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    __import__("common.packages").packages.explain_missing()
import torch
from torch import Tensor

from benchmark.command_line import check_model, count_problems, parser_of
from benchmark.tables import markdown_table
from benchmark.workloads.step_variants import variants
from common.errors import run_main
from data.loading.flat_batch import PretrainingBatch
from data.loading.prepared import find_prepared
from data.loading.pretraining_dataset import PretrainingDataset
from modeling import BertForPreTraining, prepare_model
from models.config import BERT_CONFIGS, BertConfig, Execution
from pretrained.load import fit, read_pretrained
from tasks.pretraining.synthetic import synthetic_batch
from training.config.precision import resolve_precision

OURS = tuple(name for name, variant in variants().items() if variant.is_ours and not variant.by_graphs)
KINDS = MappingProxyType(
    {
        "query, key, value": "self.query_key_value.weight",
        "attention's output": "attention.output.dense.weight",
        "intermediate": "intermediate.dense.weight",
        "output": "output.dense.weight",  # after attention's, whose name ends so, too
        "biases": ".bias",
        "LayerNorm": "LayerNorm.weight",
        "embeddings": "embeddings.weight",
        "heads": ".weight",
    }
)
Gradients = Mapping[str, Tensor]


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--bert_model", default="tiny", help="a shape, or a bert_config.json")
    parser.add_argument("--init_checkpoint", help="weights, as of run_pretraining.py; if not, random ones")
    parser.add_argument("--input_dir", help="shards to read; if not, random tokens")
    usual = "if not all that this GPU can run; on a CPU eager"
    parser.add_argument("--variants", nargs="+", choices=OURS, help=usual)
    parser.add_argument("--batch_size", type=int, default=64, help="sequences")
    parser.add_argument("--max_seq_length", type=int, default=128, help="tokens per sequence")
    parser.add_argument("--max_predictions_per_seq", type=int, default=20, help="masked positions per sequence")
    parser.add_argument("--seed", type=int, default=0, help="of random weights, and of the order of the shards")
    return parser.parse_args(arguments)


def two_batches(args: argparse.Namespace, config: BertConfig) -> list[PretrainingBatch]:
    """From the shards, or made up."""
    shape = args.max_seq_length, args.max_predictions_per_seq
    if not args.input_dir:
        return [synthetic_batch(args.batch_size, *shape, config.vocab_size, seed=seed) for seed in range(2)]
    folder = find_prepared(Path(args.input_dir), *shape)
    options = {"vocab_size": config.vocab_size, "num_workers": 0}
    dataset = PretrainingDataset(folder, args.batch_size, *shape, args.seed, **options)
    with dataset.iterate() as batches:
        return list(itertools.islice(batches, 2))


def gradients_of(
    config: BertConfig, weights: Mapping[str, Tensor], execution: Execution, batch: PretrainingBatch
) -> tuple[float, Gradients]:
    """The loss of a batch that lies on the device, and its gradients by the parameters' names."""
    device = batch.input_ids.device
    model = BertForPreTraining(config)
    model.load_state_dict(weights)
    prepare_model(model, device, execution)
    labels = batch.masked_lm_positions, batch.masked_lm_labels, batch.next_sentence_labels
    loss = model(*batch.encoder_inputs, *labels).loss
    loss.backward()
    return loss.item(), {name: parameter.grad for name, parameter in model.named_parameters()}


def errors(found: Gradients, exact: Gradients) -> dict[str, float]:
    """By kind of weight: the norm of the difference over that of the exact gradient."""
    squares = {kind: [0.0, 0.0] for kind in KINDS}
    for name, gradient in exact.items():
        sums = squares[kind_of(name)]
        sums[0] += float((found[name] - gradient).double().square().sum())
        sums[1] += float(gradient.double().square().sum())
    return {kind: (off / size) ** 0.5 for kind, (off, size) in squares.items() if size}


def kind_of(name: str) -> str:
    """A parameter's."""
    return next(kind for kind, ending in KINDS.items() if name.endswith(ending))


def chosen_variants(named: Sequence[str] | None, device: torch.device) -> Iterator[str]:
    """Those that are named, or those worth a column here."""
    if named:
        yield from named
    elif device.type == "cpu":
        yield "eager"
    else:
        yield from (name for name in ("eager", "triton-attention", "fp8", "fp8-weights") if not problem(name, device))


def problem(name: str, device: torch.device) -> str | None:
    """Why a variant cannot run here."""
    return variants()[name].problem(device)


def main(arguments: Sequence[str] | None = None) -> None:
    """Compute and print."""
    args = parse_arguments(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    problems = count_problems(args, "batch_size", "max_seq_length", "max_predictions_per_seq")
    check_model(args.bert_model, problems)
    for name in args.variants or ():
        why = problem(name, device)
        problems.check(why is None, f"--variants has {name}: {why}", "leave it out")
    problems.raise_if_any()
    resolve_precision("fp32", device).apply()
    config = BertConfig.from_json_file(BERT_CONFIGS.get(args.bert_model, args.bert_model))
    config = dataclasses.replace(config, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    torch.manual_seed(args.seed)
    weights = BertForPreTraining(config).state_dict()
    if args.init_checkpoint:
        weights |= fit(read_pretrained(args.init_checkpoint), BertForPreTraining, config, True).weights
    batch, other = (each.to(device) for each in two_batches(args, config))

    loss, exact = gradients_of(config, weights, Execution(), batch)
    print(f"fp32: loss {loss:.5f}")
    columns = {}
    for name in chosen_variants(args.variants, device):
        execution = dataclasses.replace(variants()[name].execution, compute_dtype=torch.bfloat16)
        loss, found = gradients_of(config, weights, execution, batch)
        print(f"{name}, in bf16 where not in fp8: loss {loss:.5f}", flush=True)
        columns[name] = errors(found, exact)
    columns["another batch"] = errors(gradients_of(config, weights, Execution(), other)[1], exact)
    rows = [[kind, *(f"{column[kind]:.2%}" for column in columns.values())] for kind in columns["another batch"]]
    print(markdown_table(("gradients of", *columns), rows))


if __name__ == "__main__":
    run_main(main)
