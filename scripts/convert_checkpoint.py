"""Turns any BERT that this program reads into a Hugging Face folder, or into a .pt file of its own.

What is here is the command line, and the choice of configuration and vocabulary where a model comes without them.
"""

import argparse
import dataclasses
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    __import__("common.packages").packages.explain_missing()
import torch

from common.command_line import CommandLine
from common.errors import UserError, run_main
from file_utils import atomic_path
from models.config import BertConfig
from pretrained.hugging_face import check_writable, of_architecture, write_hugging_face
from pretrained.load import EMBEDDINGS, Pretrained, few, read_pretrained
from tokenization import BertTokenizer, load_vocab, open_tokenizer

HELP = """Turn a BERT into a Hugging Face folder, or into a .pt file of this program.

FROM is one of
  a checkpoint of this program (results/ckpt_1000.pt, or the folder: its newest one) or of NVIDIA's (.pt);
  a Hugging Face folder or file (model.safetensors, pytorch_model.bin, sharded or not);
  Google's TensorFlow checkpoint: the folder, bert_model.ckpt, or any file of it. TensorFlow is not needed;
  the name of a published model that was downloaded before, such as bert-large-uncased."""

EXAMPLES = """examples:
  what was pre-trained here, for transformers:
    python scripts/convert_checkpoint.py results/checkpoints results/hugging_face --vocab_file vocab.txt
  Google's archive, unpacked:
    python scripts/convert_checkpoint.py uncased_L-12_H-768_A-12 bert_base
  a file that does not say its configuration, which weights tell but for the number of heads:
    python scripts/convert_checkpoint.py bert_large_qa.pt bert_large_qa --config_file bert_configs/large.json
  somebody's folder, to start run_pretraining.py from:
    python scripts/convert_checkpoint.py bert-base-german start.pt"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = CommandLine(HELP, epilog=EXAMPLES)
    parser.add_argument("source", metavar="FROM", help="the model to read")
    parser.add_argument("target", metavar="TO", type=Path, help="the folder or the .pt file to write")
    parser.add_argument("--to", choices=("huggingface", "pt"), help="by default pt if TO ends in .pt, else huggingface")
    parser.add_argument("--config_file", help="the model's shape; by default what is in FROM or beside it")
    parser.add_argument("--vocab_file", help="the vocabulary; by default the vocab.txt or tokenizer.json beside FROM")
    parser.add_argument(
        "--do_lower_case",
        action=argparse.BooleanOptionalAction,
        help="whether the vocabulary is lower-cased; by default what is written beside it, its folder or its words say",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a model that is at TO")
    return parser.parse_args(arguments)


def completed(
    model: Pretrained, args: argparse.Namespace, with_tokenizer: bool
) -> tuple[Pretrained, BertTokenizer | None]:
    """The model with the configuration of the command line, where it gives one, and its tokenizer, if it has one.

    A vocabulary corrects the configuration's `vocab_size` where that has fewer rows, or more than the weights.
    """
    config = BertConfig.from_json_file(args.config_file) if args.config_file else model.known_config()
    vocab_file, tokenizer = args.vocab_file or model.vocab_file, None
    if vocab_file:
        n_tokens = len(load_vocab(vocab_file))
        if not n_tokens <= config.vocab_size <= len(model.weights[EMBEDDINGS]):
            config = dataclasses.replace(config, vocab_size=n_tokens)
        if with_tokenizer:
            tokenizer = open_tokenizer(vocab_file, args.do_lower_case, model.path.parent)
    return dataclasses.replace(model, config=config, vocab_file=vocab_file), tokenizer


def write_pt(path: Path, model: Pretrained, overwrite: bool) -> list[str]:
    """Write weights and configuration as `--init_checkpoint` takes them; returns the names of what was left out.

    Raises UserError where the file is there already, or the weights are not all of a model.
    """
    if path.exists() and not (overwrite and path.is_file()):
        raise UserError(f"{path} exists", "choose another name, or replace it (a file only) with --overwrite")
    architecture, fitted = of_architecture(model)
    prefix = "bert." if architecture == "BertModel" else ""
    weights = {prefix + name: weight for name, weight in fitted.weights.items()}
    path.absolute().parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        torch.save({"model": weights, "configuration": {"model": dataclasses.asdict(model.config)}}, temporary)
    return fitted.unused


def main(arguments: list[str] | None = None) -> None:
    """Convert, and say what was done."""
    args = parse_arguments(arguments)
    to_pt = args.to == "pt" or (args.to is None and args.target.suffix == ".pt")
    if not to_pt:
        check_writable(args.target, args.overwrite)
    model, tokenizer = completed(read_pretrained(args.source), args, with_tokenizer=not to_pt)
    print(f"{model.path}: {len(model.weights)} weights{model.remark}")
    if to_pt:
        unused = write_pt(args.target, model, args.overwrite)
    else:
        unused = write_hugging_face(args.target, model, args.overwrite, tokenizer)
        print(tokenizer or "no vocabulary was found, so there is no tokenizer in the folder; --vocab_file adds it")
    if unused:
        print(f"left out, as this architecture has no place for them: {few(unused)}")
    from_pretrained = f"transformers.AutoModel.from_pretrained({str(args.target)!r})"
    usage = f"--init_checkpoint {args.target}" if to_pt else from_pretrained
    print(f"written to {args.target}; load it with {usage}")


if __name__ == "__main__":
    run_main(main)
