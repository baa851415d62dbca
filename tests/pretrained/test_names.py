"""Files of other trainers: transformers' weights with the keys and prefixes that each trainer is known for."""

import argparse
import re
import runpy
import shlex

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as checkpoint
import transformers
from published_weights import TINY
from safetensors.torch import save_file

from common.errors import UserError
from modeling import BertForPreTraining, BertForQuestionAnswering
from pretrained.load import fit, read_pretrained

SHAPE = {
    "vocab_size": 89,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 32,
}
QUERY = "bert.encoder.layer.1.attention.self.query.weight"


def state_of(kind="PreTraining", seed=0, **changes):
    torch.manual_seed(seed)
    build = getattr(transformers, kind if kind.endswith("Model") else f"BertFor{kind}")
    return dict(build(transformers.BertConfig(**SHAPE | changes)).state_dict())


STATE = state_of()


def prefixed(prefix, state=STATE):
    return {prefix + name: weight for name, weight in state.items()}


def wrapped_layers(wrapper):
    """As FSDP and torch.compile name weights where each layer is wrapped, and the whole as well."""
    return {wrapper + re.sub(r"(layer\.\d+\.)", rf"\1{wrapper}", name): weight for name, weight in STATE.items()}


OPTIMIZER = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(89, 32)}}, "param_groups": [{"lr": 1e-4}]}
FILES = {
    "NVIDIA": (
        {"model": STATE, "optimizer": OPTIMIZER, "master params": [torch.ones(2)], "files": [0, ["a"]]},
        "'model'",
    ),
    "NVIDIA in DistributedDataParallel": ({"model": prefixed("module.")}, "'model' without the prefix 'module.'"),
    "Lightning": (
        {
            "state_dict": prefixed("model.")
            | {"train_accuracy.total": torch.tensor(7), "criterion.weight": torch.ones(2)},
            "pytorch-lightning_version": "2.5.0",
            "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": torch.tensor(0.5)}},
            "optimizer_states": [OPTIMIZER],
            "hyper_parameters": {"lr": 1e-4},
        },
        "'state_dict' without the prefix 'model.'",
    ),
    "Lightning, the attribute called bert": ({"state_dict": prefixed("bert.")}, "without the prefix 'bert.'"),
    "Lightning around DistributedDataParallel": ({"state_dict": prefixed("model.module.")}, "prefix 'model.module.'"),
    "DeepSpeed": (
        {
            "module": STATE,
            "param_shapes": [{name: weight.shape for name, weight in STATE.items()}],
            "ds_config": {"train_batch_size": 8},
            "optimizer": None,
        },
        "'module'",
    ),
    "a tutorial": (
        {"epoch": 3, "model_state_dict": STATE, "optimizer_state_dict": OPTIMIZER, "loss": 0.5},
        "'model_st",
    ),
    "Composer": ({"state": {"model": prefixed("model."), "optimizers": {"AdamW": OPTIMIZER}}}, "'state.model' without"),
    "FSDP": (wrapped_layers("_fsdp_wrapped_module."), ""),
    "torch.compile": (wrapped_layers("_orig_mod."), ""),
    "compiled in DistributedDataParallel": ({"net": prefixed("module._orig_mod.")}, "without the prefix 'module.'"),
    "activation checkpointing": (wrapped_layers("_checkpoint_wrapped_module."), ""),
    "weights among other things": (STATE | {"epoch": 3}, ""),
}


@pytest.mark.parametrize("name", FILES)
def test_the_weights_are_found_and_where_they_were_is_said(tmp_path, name):
    contents, remark = FILES[name]
    torch.save(contents, tmp_path / "model.ckpt")
    pretrained = read_pretrained(tmp_path)
    assert remark in pretrained.remark
    assert bool(remark) == bool(pretrained.remark)
    fitted = fit(pretrained, BertForPreTraining, TINY)
    assert fitted.new == []
    assert all(torch.equal(weight, STATE[name]) for name, weight in fitted.weights.items())
    assert pretrained.remark in str(fitted)


def test_a_body_under_a_name_of_its_own_with_a_head_beside_it(tmp_path):
    """As a tutorial's module has them: `self.l1 = BertModel(...)`, `self.classifier = Linear(...)`."""
    state = prefixed("l1.", state_of("BertModel")) | {"classifier.weight": torch.ones(3, 32)}
    save_file(state, tmp_path / "model.safetensors")
    fitted = fit(read_pretrained(tmp_path), BertForQuestionAnswering, TINY, heads_may_be_new=True)
    assert torch.equal(fitted.weights[QUERY], state["l1." + QUERY.removeprefix("bert.")])
    assert fitted.new == ["qa_outputs.weight", "qa_outputs.bias"]
    assert "classifier.weight" in fitted.unused


SEVERAL = prefixed("discriminator.") | prefixed("generator.", state_of(seed=1))


@pytest.mark.parametrize(
    ("contents", "names", "save"),
    [
        ({"student": STATE, "teacher": state_of(seed=1)}, "'student', 'teacher'", torch.save),
        ({"net": STATE | prefixed("teacher.", state_of(seed=1))}, "'net', 'net.teacher'", torch.save),
        (prefixed("_orig_mod.a.", STATE) | prefixed("_orig_mod.b.", state_of(seed=1)), "'a', 'b'", torch.save),
        ({"state_dict": SEVERAL}, "'state_dict.discriminator', 'state_dict.generator'", torch.save),
        ({name: weight.clone() for name, weight in SEVERAL.items()}, "'discriminator', 'generator'", save_file),
    ],
)
def test_of_several_models_none_is_taken_and_the_remedy_saves_one(tmp_path, contents, names, save):
    path = tmp_path / ("a model.pt" if save is torch.save else "a model.safetensors")
    save(contents, path)
    with pytest.raises(UserError, match=rf"holds several models \({names}\)") as raised:
        read_pretrained(path)
    command = shlex.split(str(raised.value).partition("alone: ")[2].removesuffix(" does so for the first."))
    assert command[:2] == ["python3", "-c"]
    exec(command[2], {})
    assert torch.equal(read_pretrained(tmp_path / "one.pt").weights[QUERY], STATE[QUERY])


def test_scores_flags_and_paths_beside_the_weights_do_no_harm(tmp_path):
    flags = argparse.Namespace(rate=np.float32(0.1), folder=tmp_path)
    beside = {"best": np.float64(0.9), "steps": np.int64(3), "done": np.bool_(True), "args": flags}
    torch.save({"model": STATE, **beside}, tmp_path / "model.pt")
    assert torch.equal(read_pretrained(tmp_path / "model.pt").weights[QUERY], STATE[QUERY])


@pytest.mark.parametrize("key", ["model", "state_dict"])
def test_an_average_of_the_weights_is_not_the_model(tmp_path, key):
    torch.save({"ema": state_of(seed=1), key: STATE}, tmp_path / "model.pt")
    pretrained = read_pretrained(tmp_path / "model.pt")
    assert torch.equal(pretrained.weights[QUERY], STATE[QUERY])
    assert pretrained.remark == f" from {key!r}"


@pytest.mark.parametrize("prefix", ["roberta.", "model.roberta.", "distilbert.", "module.albert."])
def test_names_like_those_of_bert_are_not_taken_for_it(tmp_path, prefix):
    torch.save(prefixed(prefix, state_of("BertModel")), tmp_path / "model.pt")
    with pytest.raises(UserError, match=rf"holds no BERT, but {prefix}embeddings.* and \d+ more"):
        read_pretrained(tmp_path / "model.pt")


def test_empty_weights_of_deepspeed_are_explained(tmp_path):
    torch.save({"module": {name: torch.empty(0) for name in STATE}}, tmp_path / "mp_rank_00_model_states.pt")
    with pytest.raises(UserError, match=r"empty weights.*zero_to_fp32\.py"):
        read_pretrained(tmp_path)


def test_folders_of_trainers(tmp_path):
    """Weights among optimizers, schedules and random states; and one folder too high."""
    inner = tmp_path / "global_step500"
    inner.mkdir()
    torch.save({"module": STATE}, inner / "mp_rank_00_model_states.pt")
    for name in ("zero_pp_rank_0_mp_rank_00_optim_states.pt", "scheduler.bin", "random_states_0.pkl", "rng_state.pth"):
        torch.save({"state": 3}, inner / name)
    torch.save({"arguments": 3}, inner / "training_args.bin")
    assert torch.equal(read_pretrained(inner).weights[QUERY], STATE[QUERY])
    with pytest.raises(UserError, match=r"holds no weights that can be read; give a folder in it .*global_step500"):
        read_pretrained(tmp_path)


def test_a_sharded_checkpoint_of_torch_loads_after_the_merge_that_the_remedy_names(tmp_path, monkeypatch):
    checkpoint.save({"model": STATE}, checkpoint_id=tmp_path / "dcp", no_dist=True)
    with pytest.raises(UserError, match="format_utils dcp_to_torch") as raised:
        read_pretrained(tmp_path / "dcp")
    python, _, module, *arguments = shlex.split(str(raised.value).partition("; ")[2].removesuffix(" merges them."))
    monkeypatch.setattr("sys.argv", [python, *arguments])
    runpy.run_module(module, run_name="__main__")
    assert torch.equal(read_pretrained(tmp_path / "dcp.pt").weights[QUERY], STATE[QUERY])
