"""Folders that are written here, loaded by transformers: equal outputs, nothing missing, nothing unexpected."""

import dataclasses
import json
import os

import pytest
import torch
import transformers
from published_weights import (
    CONFIGS,
    TINY,
    TOKENS,
    assert_equal_outputs,
    load_with_transformers,
    published_weights,
    random_model,
    write_folder,
)
from safetensors.torch import load_file

from common.errors import UserError
from modeling import (
    SEQUENCE_MODELS,
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertModel,
)
from pretrained import hugging_face
from tokenization import BertTokenizer

ARCHITECTURES = (BertForPreTraining, BertForMaskedLM, BertForQuestionAnswering, BertModel)


@pytest.fixture
def vocab_file(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(TOKENS) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("build", ARCHITECTURES)
def test_transformers_loads_what_is_written_with_equal_outputs(tmp_path, vocab_file, build, name):
    ours = random_model(build, CONFIGS[name])
    left_out = write_folder(tmp_path / "hf", published_weights(ours), CONFIGS[name], vocab_file, True)
    assert left_out == []
    assert_equal_outputs(ours, load_with_transformers(tmp_path / "hf", build.__name__))
    assert isinstance(transformers.AutoModel.from_pretrained(tmp_path / "hf"), transformers.BertModel)


@pytest.mark.parametrize("build", SEQUENCE_MODELS)
def test_models_of_whole_sequences_have_one_name_there(tmp_path, vocab_file, build):
    ours = random_model(build)
    assert write_folder(tmp_path / "hf", ours.state_dict(), TINY, vocab_file, True) == []
    theirs = load_with_transformers(tmp_path / "hf", "BertForSequenceClassification")
    assert_equal_outputs(ours, theirs)
    assert theirs.config.num_labels == build.n_outputs
    assert (theirs.config.problem_type == "regression") == (build.n_outputs == 1)


def test_a_head_of_tokens_or_of_many_classes_is_left_out(tmp_path):
    for n_outputs, drops in ((4, ""), (2, "bert.pooler.")):
        weights = dict(random_model(SEQUENCE_MODELS[1]).state_dict())
        weights["classifier.weight"], weights["classifier.bias"] = torch.ones(n_outputs, 16), torch.ones(n_outputs)
        weights = {name: weight for name, weight in weights.items() if not (drops and name.startswith(drops))}
        left_out = write_folder(tmp_path / f"hf{n_outputs}", weights)
        assert sorted(left_out) == ["classifier.bias", "classifier.weight"]


@pytest.mark.parametrize("do_lower_case", [True, False])
def test_the_tokenizer_loads_and_agrees(tmp_path, vocab_file, do_lower_case):
    write_folder(tmp_path / "hf", random_model().state_dict(), TINY, vocab_file, do_lower_case)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    ours = BertTokenizer.from_pretrained(tmp_path / "hf")
    assert ours.do_lower_case is do_lower_case
    for text in ("The cats.", "the CAT [MASK] the cat", ""):
        assert theirs.tokenize(text) == ours.tokenize(text)
    assert theirs("the cat", "cats")["token_type_ids"] == [0] * 4 + [1] * 3
    assert theirs.model_max_length == TINY.max_position_embeddings
    assert (theirs.pad_token_id, theirs.mask_token_id) == (ours.vocab["[PAD]"], ours.mask_token_id)


def test_vocabulary_padding_is_trimmed(tmp_path, vocab_file):
    ours = random_model()
    weights = dict(ours.state_dict())
    for name in ("bert.embeddings.word_embeddings.weight", "cls.predictions.bias", "cls.predictions.decoder.weight"):
        weights[name] = torch.cat([weights[name], torch.full((7, *weights[name].shape[1:]), 9.0)])
    write_folder(tmp_path / "hf", weights, TINY, vocab_file, True)
    assert json.loads((tmp_path / "hf/config.json").read_text())["vocab_size"] == len(TOKENS)
    assert_equal_outputs(ours, load_with_transformers(tmp_path / "hf", "BertForPreTraining"))


def test_what_an_architecture_has_no_place_for_is_told(tmp_path):
    weights = random_model(BertForQuestionAnswering).state_dict()
    weights["bert.pooler.dense.weight"] = torch.zeros(32, 32)
    assert write_folder(tmp_path / "hf", weights, TINY) == ["bert.pooler.dense.weight"]
    load_with_transformers(tmp_path / "hf", "BertForQuestionAnswering")


def test_half_precision_and_transposed_views_are_written_as_fp32(tmp_path):
    weights = {name: w.half() if w.dim() < 2 else w.T.contiguous().T for name, w in random_model().state_dict().items()}
    write_folder(tmp_path / "hf", weights, TINY)
    written = load_file(tmp_path / "hf/model.safetensors")
    assert {w.dtype for w in written.values()} == {torch.float32}
    assert all(torch.equal(w, weights[name].float()) for name, w in written.items())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda w: w.pop("bert.encoder.layer.1.output.dense.bias"), r"layer.1.output.dense.bias \(32,\) is missing"),
        (
            lambda w: w.update({"cls.predictions.transform.dense.bias": torch.ones(3)}),
            r"a BertForPre.* \(32,\) is \(3,\)",
        ),
        (lambda w: w.update({"cls.predictions.decoder.weight": torch.ones(89, 32)}), "differs from bert.embeddings"),
        (lambda w: w.update({"cls.predictions.bias": torch.ones(88)}), r"cls.predictions.bias \(89,\) is \(88,\)"),
        (lambda w: w.update({"cls.predictions.bias": torch.ones(300)}), r"cls.predictions.bias \(89,\) is \(300,\)"),
    ],
)
def test_weights_that_are_no_whole_model_are_not_written(tmp_path, change, sentence):
    weights = dict(random_model().state_dict())
    change(weights)
    with pytest.raises(UserError, match=sentence):
        write_folder(tmp_path / "hf", weights, TINY)
    assert list(tmp_path.iterdir()) == []


def test_no_layer_is_left_out(tmp_path):
    with pytest.raises(UserError, match=r"holds more than the weights of a BertForPreTraining .*encoder\.layer\.1\."):
        write_folder(tmp_path / "hf", random_model().state_dict(), dataclasses.replace(TINY, num_hidden_layers=1))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_replaced_only_when_asked_and_only_if_it_is_a_model(tmp_path):
    folder = tmp_path / "hf"
    folder.mkdir()  # an empty one is no obstacle
    write_folder(folder, random_model(seed=1).state_dict(), TINY)
    before = (folder / "model.safetensors").read_bytes()
    with pytest.raises(UserError, match="not empty; choose another one, or replace it with --overwrite"):
        write_folder(folder, random_model(seed=2).state_dict(), TINY)
    assert (folder / "model.safetensors").read_bytes() == before
    write_folder(folder, random_model(seed=2).state_dict(), TINY, overwrite=True)
    assert (folder / "model.safetensors").read_bytes() != before
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"thesis\.tex"):
        write_folder(folder, random_model().state_dict(), TINY, overwrite=True)
    assert (folder / "thesis.tex").read_text() == "years of work"
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="not a folder"):
        write_folder(tmp_path / "file", random_model().state_dict(), TINY, overwrite=True)


def test_others_may_read_what_the_umask_lets_them(tmp_path, vocab_file):
    before = os.umask(0o022)
    try:
        write_folder(tmp_path / "hf", random_model().state_dict(), TINY, vocab_file, True)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "hf").iterdir()} == {0o644}
    assert (tmp_path / "hf").stat().st_mode & 0o777 == 0o755


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    folder = tmp_path / "hf"
    write_folder(folder, random_model(seed=1).state_dict(), TINY)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hugging_face, "save_file", fail)
    with pytest.raises(OSError, match="No space"):
        write_folder(folder, random_model(seed=2).state_dict(), TINY, overwrite=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert os.listdir(tmp_path) == ["hf"]


def test_configurations_of_transformers_and_google_are_read(tmp_path):
    theirs = transformers.BertConfig(vocab_size=99, hidden_size=24, num_attention_heads=3, hidden_act="relu")
    theirs.save_pretrained(tmp_path)
    read = BertConfig.from_json_file(tmp_path / "config.json")
    for field in dataclasses.fields(BertConfig):
        assert getattr(read, field.name) == getattr(theirs, field.name), field.name
    google = {"vocab_size": 21128, "directionality": "bidi", "pooler_type": "first_token_transform"}
    (tmp_path / "bert_config.json").write_text(json.dumps(google))
    assert BertConfig.from_json_file(tmp_path / "bert_config.json") == BertConfig(vocab_size=21128)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("position_embedding_type", "relative_key_query"),
        ("is_decoder", True),
        ("add_cross_attention", True),
        ("pruned_heads", {"0": [1]}),
        ("auto_map", {"AutoModel": "modeling.MosaicBert"}),
        ("model_type", "megatron-bert"),
    ],
)
def test_what_changes_the_computation_is_refused_by_name(tmp_path, key, value):
    transformers.BertConfig(vocab_size=99).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(UserError, match=rf"config\.json: {key} is .*; only models whose {key} is"):
        BertConfig.from_json_file(path)


@pytest.mark.parametrize(
    "values", [{}, {"model_type": "bert", "transformers_version": "5.17.0", "torch_dtype": "float32"}]
)
def test_a_misspelt_key_is_found_in_any_file(tmp_path, values):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(values | {"vocab_size": 99, "num_hiden_layers": 4}))
    with pytest.raises(UserError) as raised:
        BertConfig.from_json_file(path)
    expected = f"{path}: unknown key 'num_hiden_layers'; remove it or correct it to num_hidden_layers."
    assert raised.value.sentences == [expected]


def test_configurations_of_other_models_are_refused_whole(tmp_path):
    path = tmp_path / "config.json"
    values = {"model_type": "roberta", "layer_norm_eps": 1e-5, "hidden_act": "mish", "is_decoder": True}
    path.write_text(json.dumps(values | {"position_embedding_type": "relative_key"}))
    with pytest.raises(UserError) as raised:
        BertConfig.from_json_file(path)
    for part in ("'roberta'", "1e-05", "'mish'", "is_decoder is True", "'relative_key'", "vocab_size is missing"):
        assert part in str(raised.value)
    assert all(str(path) in sentence for sentence in raised.value.sentences)
    for content, sentence in (("[1]", "no JSON object"), ("{", "not JSON"), (None, "cannot be read")):
        path.unlink()
        if content is not None:
            path.write_text(content)
        with pytest.raises(UserError, match=sentence):
            BertConfig.from_json_file(path)
        path.touch()
