"""Where in a file the weights of a BERT are, and what others call them.

Trainers put the weights under a key of their own, and a prefix of their own before all names: Lightning `state_dict`
and `model.`, DeepSpeed `module`, DistributedDataParallel `module.`. Neither is listed here. The word embeddings, which
every BERT has once, tell both.
"""

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from common.errors import UserError

EMBEDDINGS, MASKED_LM_BIAS = "bert.embeddings.word_embeddings.weight", "cls.predictions.bias"
BUFFERS = ("bert.embeddings.position_ids", "bert.embeddings.token_type_ids")  # constants, not weights
WHAT_CAN_BE_READ = (
    "give a checkpoint of this program (ckpt_1000.pt) or of NVIDIA's (.pt), a Hugging Face folder (config.json and "
    "model.safetensors or pytorch_model.bin), Google's TensorFlow checkpoint (bert_model.ckpt) or the name of a "
    "published model that was downloaded before, such as bert-large-uncased"
)

_THE_MODEL = ("model", "state_dict")  # keys of the one that is meant, beside an average of its weights, say
_MOST_KEYS = 3  # that weights lie under
_WRAPPERS = re.compile(r"(_fsdp_wrapped_module|_orig_mod|_checkpoint_wrapped_module)\.")  # at any place in a name
_WORD_EMBEDDINGS = re.compile(r"(|.*?[./])(bert[./])?embeddings[./]word_embeddings(\.weight)?")
# Models whose weights have BERT's names, but for the first, and that compute something else.
_OTHER_MODELS = re.compile(r"(roberta|distilbert|albert|data2vec_text)[./]$")

# Patterns in the names of all tools -> the published names, one after the other.
PUBLISHED_NAMES = (
    (r"/", "."),  # Google's, as the following
    (r"\.layer_(\d+)\.", r".layer.\1."),
    (r"^cls\.squad\.output_", "qa_outputs."),
    (r"^cls\.(seq_relationship|predictions)\.output_", r"cls.\1."),
    (r"^output_", "classifier."),
    (r"\.(gamma|weights|kernel)$", ".weight"),
    (r"\.beta$", ".bias"),
    (r"_embeddings$", "_embeddings.weight"),
    (r"\.dense_act\.", ".dense."),  # NVIDIA's
    (r"^(embeddings|encoder|pooler)\.", r"bert.\1."),  # Hugging Face's, of a model without a head
    (r"^cls\.predictions\.decoder\.bias$", MASKED_LM_BIAS),
)


def published_weights(contents: Any, file: Path) -> tuple[dict[str, Tensor], str]:
    """The weights of the one BERT in what a file holds, under the published names, and how they were found.

    Args:
        contents: a state dict, or dicts with one somewhere in them.

    Returns:
        The weights, once each and without constants; and a remark on key and prefix, " from 'state_dict'", or "".

    Raises:
        UserError: there is no BERT, or there are several; a weight is quantized, or there twice.
    """
    found = [(keys, state, prefix) for keys, state in _state_dicts(contents) for prefix in _prefixes(state)]
    found = next(
        (one for key in _THE_MODEL if len(one := [each for each in found if each[0][:1] == (key,)]) == 1), found
    )
    if len(found) > 1:
        names = [".".join((*keys, prefix)).rstrip("./") for keys, _, prefix in found]
        (keys, state, prefix), *_ = found
        others = [other for _, same, other in found[1:] if same is state and other.startswith(prefix)]
        raise UserError(
            f"{file} holds several models ({few([repr(name) for name in names])})",
            _how_to_save_one(file, keys, prefix, others),
        )
    if not found:
        names = next((list(state) for _, state in _state_dicts(contents, any_names=True)), None)
        what = "weights" if names is None else f"BERT, but {few(names)}"
        raise UserError(f"{file} holds no {what}", WHAT_CAN_BE_READ)
    keys, state, prefix = found[0]
    weights: dict[str, Tensor] = {}
    for original, weight in state.items():
        name = _WRAPPERS.sub("", original).removeprefix(prefix)
        for pattern, replacement in PUBLISHED_NAMES:
            name = re.sub(pattern, replacement, name)
        if name in BUFFERS:
            continue
        if not weight.is_floating_point():
            if name.startswith(("bert.", "cls.")):
                raise UserError(f"{file}: {name} is of type {weight.dtype}", "give a model that is not quantized")
            continue  # a counter of the trainer's
        if name in weights and not equal(weights[name], weight):
            raise UserError(f"{file} holds {name} twice, under two names", "use a file that holds it once")
        weights[name] = weight
    if not weights[EMBEDDINGS].numel():
        raise UserError(
            f"{file} holds empty weights, as DeepSpeed writes them in ZeRO's stage 3",
            "gather them with the zero_to_fp32.py that DeepSpeed put into the folder above, and give its result",
        )
    under = f" from {'.'.join(keys)!r}" if keys else ""
    return weights, under + (f" without the prefix {prefix!r}" if prefix else "")


def few(names: Sequence[str], shown: int = 3) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")


def equal(one: Tensor, other: Tensor) -> bool:
    """Whether shapes and values are the same."""
    return one.shape == other.shape and bool((one == other).all())


def _state_dicts(
    contents: Any, any_names: bool = False, keys: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """The dicts with a BERT's weights in them, or with any, and the keys that lead to each; none of an optimizer."""
    if not isinstance(contents, Mapping) or len(keys) > _MOST_KEYS:
        return
    tensors = {name: value for name, value in contents.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if tensors if any_names else _prefixes(tensors):
        yield keys, tensors
    for key, value in contents.items():
        if "optim" not in str(key):
            yield from _state_dicts(value, any_names, (*keys, str(key)))


def _prefixes(state: Mapping[str, Tensor]) -> list[str]:
    """What stands before the published names, of each BERT among these."""
    found = ((_WORD_EMBEDDINGS.fullmatch(_WRAPPERS.sub("", name)), weight) for name, weight in state.items())
    prefixes = [match[1] for match, weight in found if match and (weight.dim() == 2 or not weight.numel())]
    return [prefix for prefix in dict.fromkeys(prefixes) if not _OTHER_MODELS.search(prefix)]


def _how_to_save_one(file: Path, keys: tuple[str, ...], prefix: str, others: Sequence[str]) -> str:
    """A command that saves one of several models alone; `others` are longer prefixes that begin with its own."""
    if file.suffix in (".index", ".json"):
        return "save the one that is meant in a file of its own"
    reader = "safetensors.torch.load_file" if file.suffix == ".safetensors" else "torch.load"
    path, target = json.dumps(str(file)), json.dumps(str(file.with_name("one.pt")))
    state = f"{reader}({path})" + "".join(f"[{json.dumps(key)}]" for key in keys)
    name = f"re.sub({_WRAPPERS.pattern!r}, '', n)"
    chosen = f"{{n: w for n, w in {state}.items() if {name}.startswith({prefix!r})"
    chosen += f" and not {name}.startswith({tuple(others)!r})}}" if others else "}"
    command = shlex.quote(f"import re, torch, safetensors.torch; torch.save({chosen}, {target})")
    return f"save the one that is meant alone: python3 -c {command} does so for the first"
