"""Everybody's files, made by their tools or by hand after them, read and loaded: equal outputs, nothing in silence."""

import dataclasses
import json
import pickle
import re
import shutil

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from published_weights import (
    CONFIGS,
    DECODER,
    EMBEDDINGS,
    TINY,
    assert_equal_outputs,
    nvidia_state,
    parameters_equal,
    random_model,
    write_google,
)

from common.errors import UserError
from modeling import BertForMaskedLM, BertForPreTraining, BertForQuestionAnswering, BertModel
from pretrained.hugging_face import write_hugging_face
from pretrained.load import LoadReport, load_pretrained, read_pretrained
from training.checkpointing.checkpoint import save_checkpoint


def reference_model(build, config=TINY, seed=0):
    """A model of transformers in evaluation, every weight of it random."""
    torch.manual_seed(seed)
    values = dataclasses.asdict(config) | {"attn_implementation": "eager"}
    model = build(transformers.BertConfig(**values)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


def loaded(path, build, config=TINY, **kwargs):
    model = build(config).eval()
    report = load_pretrained(model, read_pretrained(path), **kwargs)
    return model, report


PAIRS = (
    (transformers.BertForPreTraining, BertForPreTraining),
    (transformers.BertForMaskedLM, BertForMaskedLM),
    (transformers.BertForQuestionAnswering, BertForQuestionAnswering),
    (transformers.BertModel, BertModel),
)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(("theirs", "ours"), PAIRS)
def test_what_transformers_saves_loads_with_equal_outputs(tmp_path, theirs, ours, name):
    reference = reference_model(theirs, CONFIGS[name])
    reference.save_pretrained(tmp_path)
    pretrained = read_pretrained(tmp_path)
    assert pretrained.config == CONFIGS[name]
    model = ours(pretrained.config).eval()
    report = load_pretrained(model, pretrained, may_be_missing=())
    assert (report.new, report.unused, report.other_shape) == ((), (), ())
    assert_equal_outputs(model, reference)


def test_a_large_shape_in_shards_loads_with_equal_outputs(tmp_path):
    large = dataclasses.replace(TINY, hidden_size=1024, num_attention_heads=16, intermediate_size=4096)
    reference = reference_model(transformers.BertForQuestionAnswering, large)
    reference.save_pretrained(tmp_path, max_shard_size="30MB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert_equal_outputs(loaded(tmp_path, BertForQuestionAnswering, large)[0], reference)
    next(tmp_path.glob("model-00002-of-*")).unlink()
    with pytest.raises(UserError, match=r"model-00002-of-\d+\.safetensors is missing"):
        read_pretrained(tmp_path)


@pytest.mark.parametrize("new_format", [True, False])
def test_old_hugging_face_files_load(tmp_path, new_format):
    """pytorch_model.bin with gamma and beta, buffers, and a second name of the masked-LM bias; zipped and as of old."""
    reference = reference_model(transformers.BertForPreTraining)
    state = {}
    for name, weight in reference.state_dict().items():
        name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        state[name] = weight
    state["bert.embeddings.position_ids"] = torch.arange(32)[None]
    state["cls.predictions.decoder.bias"] = state["cls.predictions.bias"]
    torch.save(state, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=new_format)
    (tmp_path / "config.json").write_text(reference.config.to_json_string())
    model, report = loaded(tmp_path, BertForPreTraining, may_be_missing=())
    assert report.dropped == ("bert.embeddings.position_ids",)
    assert "in the file and no weights: bert.embeddings.position_ids" in str(report)
    assert_equal_outputs(model, reference)
    del state["cls.predictions.bias"]
    torch.save(state, tmp_path / "pytorch_model.bin")
    assert_equal_outputs(loaded(tmp_path, BertForPreTraining, may_be_missing=())[0], reference)


@pytest.mark.parametrize("prefix", ["", "module.", "module.module."])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_nvidia_files_load(tmp_path, prefix, dtype):
    ours = random_model()
    state = {prefix + name: weight.to(dtype) for name, weight in nvidia_state(ours).items()}
    torch.save({"model": state, "optimizer": {"state": {}}, "epoch": 3}, tmp_path / "ckpt.pt")
    model, report = loaded(tmp_path / "ckpt.pt", BertForPreTraining, may_be_missing=())
    assert report.unused == ()
    expected = ours if dtype == torch.float32 else ours.half().float()
    assert parameters_equal(model, expected)


def test_nvidia_question_answering_loads_without_its_pooler(tmp_path):
    ours = random_model(BertForQuestionAnswering)
    state = nvidia_state(ours) | {"bert.pooler.dense_act.weight": torch.ones(32, 32)}
    torch.save({"model": state}, tmp_path / "bert_qa.pt")
    model, report = loaded(tmp_path / "bert_qa.pt", BertForQuestionAnswering)
    assert (report.new, report.unused) == ((), ("bert.pooler.dense.weight",))
    assert parameters_equal(model, ours)


@pytest.mark.parametrize("build", [BertForPreTraining, BertForQuestionAnswering])
@pytest.mark.parametrize(
    "what", ["", "bert_model.ckpt", "bert_model.ckpt.index", "bert_model.ckpt.data-00000-of-00001"]
)
def test_google_checkpoints_load(tmp_path, build, what):
    ours = random_model(build)
    slots = {"bert/pooler/dense/kernel/adam_m": np.ones((2, 3), np.float32), "global_step": np.int64(9)}
    folder = write_google(tmp_path / "cased_L-2_H-32_A-4", ours, extra=slots)
    pretrained = read_pretrained(folder / what)
    assert pretrained.kind == "TensorFlow checkpoint"
    assert pretrained.config == TINY
    assert pretrained.vocab_file == folder / "vocab.txt"
    assert pretrained.do_lower_case is False
    assert set(pretrained.dropped) == slots.keys()
    model = build(TINY)
    load_pretrained(model, pretrained, may_be_missing=())
    assert parameters_equal(model, ours)


def test_our_checkpoints_load_with_their_configuration(tmp_path):
    ours = random_model()
    state = {"model": ours.state_dict(), "optimizer": {}, "schedule": {}, "training_step": 0, "data_position": {}}
    state["configuration"] = {"model": dataclasses.asdict(TINY), "arguments": {}}
    save_checkpoint(tmp_path, 5, state)
    save_checkpoint(tmp_path, 10, state)
    for path in (tmp_path, tmp_path / "ckpt_5.pt"):
        pretrained = read_pretrained(path)
        assert (pretrained.config, pretrained.vocab_file, pretrained.do_lower_case) == (TINY, None, None)
        assert pretrained.path.name == ("ckpt_10.pt" if path == tmp_path else "ckpt_5.pt")
        model = BertForPreTraining(TINY)
        load_pretrained(model, pretrained, may_be_missing=(), may_be_unused=())
        assert parameters_equal(model, ours)


def test_pre_trained_weights_start_a_question_answering_model(tmp_path):
    write_hugging_face(tmp_path / "hf", random_model().state_dict(), TINY)
    torch.manual_seed(7)
    model = BertForQuestionAnswering(TINY)
    head = model.qa_outputs.weight.clone()
    report = load_pretrained(model, read_pretrained(tmp_path / "hf"))
    assert report.new == ("qa_outputs.weight", "qa_outputs.bias")
    assert len(report.loaded) == len(model.state_dict()) - 2
    assert all(name.startswith(("cls.", "bert.pooler.")) for name in report.unused)
    assert torch.equal(model.qa_outputs.weight, head)
    for line in ("37 weights loaded", "randomly initialized, as the file has none: qa_outputs.weight", "not used: "):
        assert line in str(report)


def test_a_head_of_another_shape_stays_random_and_is_told(tmp_path):
    state = dict(random_model(BertForQuestionAnswering).state_dict())
    state |= {"qa_outputs.weight": torch.ones(3, 32), "qa_outputs.bias": torch.ones(3)}
    torch.save(state, tmp_path / "three.pt")
    model, report = loaded(tmp_path / "three.pt", BertForQuestionAnswering)
    assert report.other_shape[0] == ("qa_outputs.weight", (3, 32), (2, 32))
    assert model.qa_outputs.weight.abs().max() < 0.1
    assert "another shape: qa_outputs.weight (3, 32) for the model's (2, 32)" in str(report)


def without(*names):
    return lambda state: [state.pop(name) for name in names]


@pytest.mark.parametrize(
    ("change", "sentences"),
    [
        (without("bert.encoder.layer.1.attention.self.key.bias"), [r"missing: \S+1.attention.self.key.bias \(32,\)"]),
        (without("qa_outputs.bias", "bert.embeddings.LayerNorm.bias"), [r"missing: bert.embeddings.LayerNorm.bias"]),
        (lambda s: s.update({"bert.encoder.layer.2.output.dense.bias": torch.ones(3)}), [r"no place for: .*2.*\(3,\)"]),
        (
            lambda s: s.update({"bert.encoder.layer.0.intermediate.dense.bias": torch.ones(128), "new": torch.ones(1)}),
            [r"another shape .*dense.bias \(128,\) for the model's \(64,\)", r"no place for: new \(1,\)"],
        ),
        (lambda s: s.update({EMBEDDINGS: torch.ones(88, 32)}), ["88 rows, and the vocabulary 89 tokens"]),
        (lambda s: s.update({EMBEDDINGS: torch.ones(89 + 128, 32)}), ["217 rows, and the vocabulary 89 tokens"]),
    ],
)
def test_a_half_load_is_refused_and_changes_nothing(tmp_path, change, sentences):
    state = dict(random_model(BertForQuestionAnswering).state_dict())
    change(state)
    torch.save(state, tmp_path / "half.pt")
    model = BertForQuestionAnswering(TINY)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with pytest.raises(UserError) as raised:
        load_pretrained(model, read_pretrained(tmp_path / "half.pt"))
    assert len(raised.value.sentences) == len(sentences)
    for sentence, pattern in zip(raised.value.sentences, sentences, strict=True):
        assert re.search(pattern, sentence), sentence
        assert "half.pt" in sentence
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_a_model_of_more_layers_or_of_another_size_is_refused(tmp_path):
    write_hugging_face(tmp_path / "hf", random_model().state_dict(), TINY)
    pretrained = read_pretrained(tmp_path / "hf")
    with pytest.raises(UserError, match=r"missing: bert\.encoder\.layer\.2\..* and 13 more"):
        load_pretrained(BertForPreTraining(dataclasses.replace(TINY, num_hidden_layers=3)), pretrained)
    with pytest.raises(UserError, match=r"another shape than the model's: .*\(89, 32\) for the model's \(89, 16\)"):
        load_pretrained(BertForPreTraining(dataclasses.replace(TINY, hidden_size=16)), pretrained)


def test_an_untied_head_is_refused_only_where_it_would_be_used(tmp_path):
    state = dict(random_model().state_dict())
    state[DECODER] = state[DECODER] + 1
    torch.save(state, tmp_path / "untied.pt")
    with pytest.raises(UserError, match=r"decoder\.weight differs from bert\.embeddings"):
        loaded(tmp_path / "untied.pt", BertForPreTraining)
    _, report = loaded(tmp_path / "untied.pt", BertForQuestionAnswering)
    assert DECODER in report.unused


class Payload:
    """What a pickle that runs code looks like."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


@pytest.mark.parametrize("kind", ["zip", "old", "bare pickle"])
@pytest.mark.parametrize("where", ["weights", "beside"])
def test_code_in_a_file_is_never_run(tmp_path, kind, where):
    marker, path = tmp_path / "executed", tmp_path / "pytorch_model.bin"
    state = random_model().state_dict()
    contents = dict(state) | {"x": Payload(marker)} if where == "weights" else {"model": state, "x": Payload(marker)}
    if kind == "bare pickle":
        path.write_bytes(pickle.dumps({"x": Payload(marker)}))
    else:
        torch.save(contents, path, _use_new_zipfile_serialization=kind == "zip")
    sentence = "is damaged or no model" if kind == "bare pickle" else r"holds more than tensors \(\S*open\)"
    with pytest.raises(UserError, match=rf"pytorch_model\.bin {sentence}"):
        read_pretrained(tmp_path)
    assert not marker.exists()
    torch.load(path, weights_only=False) if kind != "bare pickle" else pickle.loads(path.read_bytes())
    assert marker.exists()  # it would have been


def test_a_flipped_bit_in_a_pt_file_is_noticed(tmp_path):
    torch.save(random_model().state_dict(), tmp_path / "model.pt")
    content = bytearray((tmp_path / "model.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(UserError, match=r"model\.pt is damaged or no model \(wrong checksum"):
        read_pretrained(tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("contents", "sentence"),
    [
        ({"model": {}}, "holds no weights"),
        ([torch.ones(1)], "holds no weights"),
        ({"distilbert.embeddings.word_embeddings.weight": torch.ones(3, 3)}, "holds no BERT, but distilbert"),
        ({EMBEDDINGS: torch.ones(3, 3, dtype=torch.int8)}, "is of type torch.int8; give a model that is not quantized"),
        ({EMBEDDINGS: torch.ones(3, 3), "embeddings.word_embeddings.weight": torch.ones(3, 3)}, "twice"),
    ],
)
def test_files_without_a_bert_are_refused(tmp_path, contents, sentence):
    torch.save(contents, tmp_path / "some.pt")
    with pytest.raises(UserError, match=rf"some\.pt.*{sentence}"):
        read_pretrained(tmp_path / "some.pt")


def test_paths_with_nothing_or_too_much_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("BERT_PREP_WORKING_DIR", str(tmp_path))
    for path, sentence in (
        (tmp_path / "nowhere", r"There is no model .*nowhere; give a checkpoint"),
        (tmp_path, "holds no weights that can be read"),
        (tmp_path / "x.ckpt.index", r"x\.ckpt\.index is missing"),
        ("bert-base-uncased", r"uncased_L-12_H-768_A-12; unpack Google's"),
    ):
        with pytest.raises(UserError, match=sentence):
            read_pretrained(path)
    (tmp_path / "text.pt").write_text("Not a model.")
    with pytest.raises(UserError, match=r"text\.pt is damaged or no model"):
        read_pretrained(tmp_path / "text.pt")
    (tmp_path / "other.pt").touch()
    with pytest.raises(UserError, match=r"several models \(other\.pt, text\.pt\)"):
        read_pretrained(tmp_path)


def test_published_names_are_found_where_they_are_downloaded_to(tmp_path, monkeypatch):
    monkeypatch.setenv("BERT_PREP_WORKING_DIR", str(tmp_path))
    weights = tmp_path / "download" / "google_pretrained_weights"
    for name, folder, lower in (
        ("bert-base-cased", "cased_L-12_H-768_A-12", False),
        ("bert-large-uncased", "uncased_L-24_H-1024_A-16", True),
        ("bert-base-multilingual-uncased", "multilingual_L-12_H-768_A-12", True),
        ("bert-base-multilingual-cased", "multi_cased_L-12_H-768_A-12", False),
    ):
        write_google(weights / folder, random_model())
        assert read_pretrained(name).do_lower_case is lower
        assert read_pretrained(weights / folder).do_lower_case is lower
        assert read_pretrained(name).path == weights / folder / "bert_model.ckpt"


def test_what_is_written_about_case_goes_before_names(tmp_path):
    folder = write_google(tmp_path / "uncased_tiny", random_model())
    assert read_pretrained(folder).do_lower_case is True
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert read_pretrained(folder).do_lower_case is False
    plain = shutil.copytree(folder, tmp_path / "showcased")
    (plain / "tokenizer_config.json").unlink()
    assert read_pretrained(plain).do_lower_case is None


def test_the_best_of_several_kinds_is_taken(tmp_path):
    write_google(tmp_path, random_model(seed=1))
    assert read_pretrained(tmp_path).kind == "TensorFlow checkpoint"
    ours = random_model(seed=2)
    torch.save(ours.state_dict(), tmp_path / "pytorch_model.bin")
    assert read_pretrained(tmp_path).kind == "Hugging Face model"
    assert parameters_equal(loaded(tmp_path, BertForPreTraining)[0], ours)


def test_a_bare_file_tells_what_it_can(tmp_path):
    torch.save({"model": nvidia_state(random_model())}, tmp_path / "bare.pt")
    pretrained = read_pretrained(tmp_path / "bare.pt")
    assert pretrained.config is None
    with pytest.raises(UserError, match="give --config_file") as raised:
        pretrained.known_config()
    told = '"vocab_size": 96, "hidden_size": 32, "intermediate_size": 64, "max_position_embeddings": 32, '
    assert told + '"type_vocab_size": 2, "num_hidden_layers": 2.' in str(raised.value)
    assert pretrained.with_config(TINY, "tiny.json").known_config() == TINY


def test_a_configuration_of_another_model_is_refused_whole(tmp_path):
    torch.save(random_model().state_dict(), tmp_path / "model.pt")
    other = dataclasses.replace(TINY, hidden_size=64, num_hidden_layers=4, vocab_size=90)
    (tmp_path / "bert_config.json").write_text(json.dumps(dataclasses.asdict(other)))
    with pytest.raises(UserError) as raised:
        read_pretrained(tmp_path)
    assert len(raised.value.sentences) == 3
    for part in ("bert_config.json says vocab_size 90", "hidden_size 64", "num_hidden_layers 4, and the weights in "):
        assert part in str(raised.value)
    (tmp_path / "bert_config.json").unlink()
    (tmp_path / "config.json").write_text('{"learning_rate": 1}')  # of another program
    assert read_pretrained(tmp_path).config is None


tiny_shapes = st.builds(
    lambda heads, size, layers, inner, positions, types: dataclasses.replace(
        TINY,
        hidden_size=heads * size,
        num_attention_heads=heads,
        num_hidden_layers=layers,
        intermediate_size=inner,
        max_position_embeddings=positions,
        type_vocab_size=types,
    ),
    *(
        st.integers(1, 4),
        st.integers(1, 5),
        st.integers(1, 11),
        st.integers(1, 9),
        st.integers(1, 9),
        st.integers(1, 3),
    ),
)


@settings(max_examples=10, deadline=None)
@given(config=tiny_shapes, build=st.sampled_from([BertForPreTraining, BertForMaskedLM, BertForQuestionAnswering]))
def test_any_shape_survives_every_kind_of_file(tmp_path_factory, config, build):
    """Google's, NVIDIA's and Hugging Face's files of one model all give that model."""
    folder, ours = tmp_path_factory.mktemp("models"), random_model(build, config)
    write_google(folder / "google", ours, config)
    write_hugging_face(folder / "hf", ours.state_dict(), config)
    torch.save({"model": nvidia_state(ours)}, folder / "nvidia.pt")
    for name in ("google", "hf", "nvidia.pt"):
        pretrained = read_pretrained(folder / name)
        assert pretrained.config == (config if name != "nvidia.pt" else None)
        model = build(config)
        report = load_pretrained(model, pretrained, may_be_missing=(), may_be_unused=())
        assert isinstance(report, LoadReport)
        assert parameters_equal(model, ours), name


@pytest.mark.parametrize("kind", ["safetensors", "pt", "google"])
def test_weights_are_mapped_not_read(tmp_path, kind):
    """Reading a model leaves its weights in the file: their pages are in memory only once, in the page cache."""
    if kind == "safetensors":
        write_hugging_face(tmp_path / "hf", random_model().state_dict(), TINY)
        path = tmp_path / "hf"
    elif kind == "pt":
        path = tmp_path / "model.pt"
        torch.save(random_model().state_dict(), path)
    else:
        path = write_google(tmp_path / "google", random_model())
    address = read_pretrained(path).weights["bert.encoder.layer.0.intermediate.dense.weight"]
    with open("/proc/self/maps", encoding="utf-8") as file:
        ranges = [line.split() for line in file]
    held = [r[-1] for r in ranges if len(r) > 5 and _holds(r[0], address.data_ptr())]
    assert len(held) == 1
    assert held[0].startswith(str(tmp_path))


def _holds(span, address):
    start, end = (int(part, 16) for part in span.split("-"))
    return start <= address < end
