"""Folders as Hugging Face's transformers reads and writes them: how a model gets back to the tools that people have.

What a folder holds is decided by the weights alone: a question-answering head makes it a BertForQuestionAnswering, and
so on, with exactly the weights that transformers' class of that name has, so that it reports none missing and none
unexpected.
"""

import dataclasses
import json
from pathlib import Path
from types import MappingProxyType
from typing import Any

import safetensors
from safetensors.torch import save_file

from common.errors import UserError
from common.tokenizer_files import CLS, MASK, PAD, SEP, TOKENIZER_CONFIG_NAME, UNK, VOCAB_NAME
from file_utils import atomic_folder
from kernels.layers import LAYER_NORM_EPS
from modeling import (
    SEQUENCE_MODELS,
    BertForMaskedLM,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertModel,
)
from pretrained.load import CONFIG_NAME, EMBEDDINGS, MASKED_LM_BIAS, WEIGHTS_NAME, Fitted, Pretrained, few, fit
from tokenization import BertTokenizer

WRITTEN_NAMES = (CONFIG_NAME, WEIGHTS_NAME, TOKENIZER_CONFIG_NAME, VOCAB_NAME)

# transformers' class and ours have one name and the same weights; this weight tells the class from those below.
ARCHITECTURES = MappingProxyType(
    {
        "qa_outputs.weight": BertForQuestionAnswering,
        "cls.seq_relationship.weight": BertForPreTraining,
        MASKED_LM_BIAS: BertForMaskedLM,
        EMBEDDINGS: BertModel,
    }
)

POOLER, CLASSIFIER = "bert.pooler.dense.weight", "classifier.weight"  # both: whole sequences are classified


def of_architecture(model: Pretrained) -> tuple[str, Fitted]:
    """The class that these weights are of by its name, and its weights among them, in fp32.

    Raises UserError where some are missing or not of the configuration's shape.
    """
    build = next(build for telling, build in ARCHITECTURES.items() if telling in model.weights)
    architecture, n_outputs = build.__name__, _n_outputs(model)
    if n_outputs:
        build, architecture = SEQUENCE_MODELS[n_outputs - 1], BertForSequenceClassification.__name__
    fitted = fit(model, build, model.known_config(), heads_may_be_new=build is BertModel)
    weights = {name: weight.detach().float().contiguous() for name, weight in fitted.weights.items()}
    return architecture, dataclasses.replace(fitted, weights=weights)


def _n_outputs(model: Pretrained) -> int:
    """Of a model of whole sequences that is one of ours; 0 of others."""
    n = len(model.weights[CLASSIFIER]) if {POOLER, CLASSIFIER} <= model.weights.keys() else 0
    return n if n <= len(SEQUENCE_MODELS) else 0


def write_hugging_face(
    folder: Path, model: Pretrained, overwrite: bool = False, tokenizer: BertTokenizer | None = None
) -> list[str]:
    """Write a folder that transformers loads: the model, and its tokenizer where there is one.

    Args:
        folder: made, whole, by a rename.
        model: with a configuration.
        overwrite: replace a folder that is there, if it holds such a model and nothing else.

    Returns:
        The names of weights that the architecture has no place for and that were left out.

    Raises:
        UserError: the folder is in the way, or weights and configuration do not fit together.
    """
    check_writable(folder, overwrite)
    architecture, fitted = of_architecture(model)
    config = {"architectures": [architecture], "model_type": "bert", "layer_norm_eps": LAYER_NORM_EPS}
    if n_outputs := _n_outputs(model):
        config |= {"num_labels": n_outputs} | ({"problem_type": "regression"} if n_outputs == 1 else {})
    if tokenizer:
        config["pad_token_id"] = tokenizer.vocab[PAD]
    with atomic_folder(folder) as new:
        _write_json(new / CONFIG_NAME, config | dataclasses.asdict(model.config))
        try:
            save_file(fitted.weights, new / WEIGHTS_NAME, metadata={"format": "pt"})
        except safetensors.SafetensorError as error:
            raise UserError(f"{folder / WEIGHTS_NAME} cannot be written ({error}); is the disk full?") from error
        # The library lets only its owner read what it writes; the umask has decided for the file beside it.
        (new / WEIGHTS_NAME).chmod((new / CONFIG_NAME).stat().st_mode & 0o777)
        if tokenizer:
            (new / VOCAB_NAME).write_text("".join(f"{token}\n" for token in tokenizer.vocab), encoding="utf-8")
            rules = {"do_lower_case": tokenizer.do_lower_case} | tokenizer.unusual_rules
            tokens = {"pad_token": PAD, "unk_token": UNK, "cls_token": CLS, "sep_token": SEP, "mask_token": MASK}
            longest = {"model_max_length": model.config.max_position_embeddings}
            _write_json(new / TOKENIZER_CONFIG_NAME, {"tokenizer_class": "BertTokenizer"} | rules | longest | tokens)
    return fitted.unused


def check_writable(folder: Path, overwrite: bool) -> None:
    """Raises UserError where something is in the way of a folder that is to be written."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} exists and is not a folder", "choose another one to write to")
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if names and not overwrite:
        raise UserError(f"The folder {folder} is not empty", "choose another one, or replace it with --overwrite")
    if others := [name for name in names if name not in WRITTEN_NAMES]:
        raise UserError(
            f"The folder {folder} holds more than a model ({few(others)}), which --overwrite would remove",
            "choose another one, or empty it",
        )


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
