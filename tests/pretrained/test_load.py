"""Everybody's files, made by their tools or by hand after them, read and loaded: equal outputs, nothing in silence."""

import dataclasses
import json
import pickle
import re

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from paths import ROOT
from published_weights import (
    CONFIGS,
    DECODER,
    EMBEDDINGS,
    TINY,
    TOKENS,
    assert_equal_outputs,
    nvidia_state,
    parameters_equal,
    published_weights,
    random_model,
    write_folder,
    write_google,
)

from common.errors import UserError
from modeling import BertForMaskedLM, BertForPreTraining, BertForQuestionAnswering, BertModel
from models.config import BertConfig
from pretrained.load import Pretrained, fit, read_pretrained
from pretrained.tensorflow import read_tensor_bundle
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


FINE_TUNING = {"heads_may_be_new": True}


def loaded(path, build, config=TINY, **may):
    """A model with a file's weights, and what became of them."""
    model = build(config).eval()
    fitted = fit(read_pretrained(path), build, config, **may)
    model.load_state_dict(fitted.weights, strict=False)
    return model, fitted


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
    model, fitted = loaded(tmp_path, ours, CONFIGS[name])
    assert (fitted.new, fitted.unused) == ([], [])
    assert_equal_outputs(model, reference)


def test_a_model_in_shards_loads_with_equal_outputs(tmp_path):
    large = dataclasses.replace(TINY, hidden_size=256, num_attention_heads=4, intermediate_size=1024)
    reference = reference_model(transformers.BertForQuestionAnswering, large)
    reference.save_pretrained(tmp_path, max_shard_size="2MB")
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
    assert_equal_outputs(loaded(tmp_path, BertForPreTraining)[0], reference)
    del state["cls.predictions.bias"]
    torch.save(state, tmp_path / "pytorch_model.bin")
    assert_equal_outputs(loaded(tmp_path, BertForPreTraining)[0], reference)


@pytest.mark.parametrize("prefix", ["", "module.", "module.module."])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_nvidia_files_load(tmp_path, prefix, dtype):
    ours = random_model()
    state = {prefix + name: weight.to(dtype) for name, weight in nvidia_state(ours).items()}
    torch.save({"model": state, "optimizer": {"state": {}}, "epoch": 3}, tmp_path / "ckpt.pt")
    model, fitted = loaded(tmp_path / "ckpt.pt", BertForPreTraining)
    assert fitted.unused == []
    expected = ours if dtype == torch.float32 else ours.half().float()
    assert parameters_equal(model, expected)


def test_nvidia_question_answering_loads_without_its_pooler(tmp_path):
    ours = random_model(BertForQuestionAnswering)
    state = nvidia_state(ours) | {"bert.pooler.dense_act.weight": torch.ones(32, 32)}
    torch.save({"model": state}, tmp_path / "bert_qa.pt")
    model, fitted = loaded(tmp_path / "bert_qa.pt", BertForQuestionAnswering, **FINE_TUNING)
    assert (fitted.new, fitted.unused) == ([], ["bert.pooler.dense.weight"])
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
    assert (pretrained.path, pretrained.config) == (folder / "bert_model.ckpt.index", TINY)
    assert pretrained.vocab_file == folder / "vocab.txt"
    model, _ = loaded(folder / what, build)
    assert parameters_equal(model, ours)


def test_our_checkpoints_load_with_their_configuration(tmp_path):
    ours = random_model()
    state = {"model": ours.state_dict(), "optimizer": {}, "schedule": {}, "training_step": 0, "data_position": {}}
    state["configuration"] = {"model": dataclasses.asdict(TINY), "arguments": {}}
    save_checkpoint(tmp_path, 5, state)
    save_checkpoint(tmp_path, 10, state)
    for path in (tmp_path, tmp_path / "ckpt_5.pt"):
        pretrained = read_pretrained(path)
        assert (pretrained.config, pretrained.vocab_file) == (TINY, None)
        assert pretrained.path.name == ("ckpt_10.pt" if path == tmp_path else "ckpt_5.pt")
        assert parameters_equal(loaded(path, BertForPreTraining)[0], ours)


def test_pre_trained_weights_start_a_question_answering_model(tmp_path):
    write_folder(tmp_path / "hf", random_model().state_dict(), TINY)
    model, fitted = loaded(tmp_path / "hf", BertForQuestionAnswering, **FINE_TUNING)
    assert fitted.new == ["qa_outputs.weight", "qa_outputs.bias"]
    assert len(fitted.weights) == len(model.state_dict()) - 2
    assert all(name.startswith(("cls.", "bert.pooler.")) for name in fitted.unused)
    for line in (
        "37 weights loaded",
        "randomly initialized, as the file has none of their shape: qa_outputs.weight",
        "not used: ",
    ):
        assert line in str(fitted)


def test_a_head_of_another_shape_stays_random(tmp_path):
    state = dict(random_model(BertForQuestionAnswering).state_dict())
    state |= {"qa_outputs.weight": torch.ones(3, 32), "qa_outputs.bias": torch.ones(3)}
    torch.save(state, tmp_path / "three.pt")
    model, fitted = loaded(tmp_path / "three.pt", BertForQuestionAnswering, **FINE_TUNING)
    assert fitted.new == ["qa_outputs.weight", "qa_outputs.bias"]
    assert model.qa_outputs.weight.abs().max() < 0.1


def without(*names):
    return lambda state: [state.pop(name) for name in names]


@pytest.mark.parametrize(
    ("change", "sentences"),
    [
        (
            without("bert.encoder.layer.1.attention.self.key.bias"),
            [r"1.attention.self.key.bias \(32,\) is miss"],
        ),
        (without("qa_outputs.bias", "bert.embeddings.LayerNorm.bias"), [r"LayerNorm.bias \(32,\) is missing"]),
        (lambda s: s.update({"bert.encoder.layer.2.output.dense.bias": torch.ones(3)}), [r"holds more .*2.*\(3,\)"]),
        (
            lambda s: s.update(
                {"bert.encoder.layer.0.intermediate.dense.bias": torch.ones(128), "bert.new": torch.ones(1)}
            ),
            [r"dense.bias \(64,\) is \(128,\)", r"holds more .* bert.new \(1,\)"],
        ),
        (lambda s: s.update({EMBEDDINGS: torch.ones(88, 32)}), [r"word_embeddings.weight \(89, 32\) is \(88, 32\)"]),
        (lambda s: s.update({EMBEDDINGS: torch.ones(89 + 128, 32)}), [r"word_embeddings.weight .* is \(217, 32\)"]),
    ],
)
def test_a_half_load_is_refused(tmp_path, change, sentences):
    state = dict(random_model(BertForQuestionAnswering).state_dict())
    change(state)
    torch.save(state, tmp_path / "half.pt")
    with pytest.raises(UserError) as raised:
        loaded(tmp_path / "half.pt", BertForQuestionAnswering, **FINE_TUNING)
    assert len(raised.value.sentences) == len(sentences)
    for sentence, pattern in zip(raised.value.sentences, sentences, strict=True):
        assert re.search(pattern, sentence), sentence
        assert "half.pt" in sentence


def test_a_model_of_more_layers_or_of_another_size_is_refused(tmp_path):
    write_folder(tmp_path / "hf", random_model().state_dict(), TINY)
    with pytest.raises(UserError, match=r"of this configuration: bert\.encoder\.layer\.2\..* and 13 more"):
        loaded(tmp_path / "hf", BertForPreTraining, dataclasses.replace(TINY, num_hidden_layers=3))
    with pytest.raises(UserError, match=r"word_embeddings\.weight \(89, 16\) is \(89, 32\)"):
        loaded(tmp_path / "hf", BertForPreTraining, dataclasses.replace(TINY, hidden_size=16))


def test_rows_that_no_token_has_are_left_out_where_the_vocabulary_shows_it(tmp_path):
    """1,000 more rows than the configuration has: of its own vocabulary, of a larger one, of one that nobody knows."""
    more = dataclasses.replace(TINY, vocab_size=1089)
    reference = reference_model(transformers.BertForPreTraining, more)
    reference.save_pretrained(tmp_path)
    vocab = tmp_path / "vocab.txt"
    for tokens, is_read in ((TOKENS, True), ([*TOKENS, "larger"], False), (None, False)):
        vocab.unlink() if tokens is None else vocab.write_text("\n".join(tokens) + "\n")
        if not is_read:
            with pytest.raises(UserError, match=r"is \(1089, 32\).*its vocab_size is 1089, not 89"):
                loaded(tmp_path, BertForPreTraining)
            continue
        model, fitted = loaded(tmp_path, BertForPreTraining)
        assert "but for the last 1,000 rows of the embeddings, which no token has" in str(fitted)
        embeddings = model.bert.embeddings.word_embeddings.weight[: len(TOKENS)]
        assert torch.equal(embeddings, reference.bert.embeddings.word_embeddings.weight[: len(TOKENS)])
    assert loaded(tmp_path, BertForPreTraining, more)[1].new == []


def test_mlperf_s_checkpoint_gives_its_weights_alone_and_fits_its_own_configuration_alone(tmp_path):
    """A bundle with two slots of LAMB for each weight, as MLPerf's starting checkpoint has them."""
    ours = random_model(BertForPreTraining)
    write_google(tmp_path / "plain", ours)
    plain = read_tensor_bundle(tmp_path / "plain" / "bert_model.ckpt.index")
    slots = {f"{name}/{slot}": np.float32(tensor) + 9 for name, tensor in plain.items() for slot in ("LAMB", "LAMB_1")}
    steps = {"global_step": np.int64(28252), "beta1_power": np.float32(0), "beta2_power": np.float32(0.1)}
    folder = write_google(tmp_path / "mlperf", ours, extra=slots | steps)
    model, fitted = loaded(folder, BertForPreTraining)
    assert (fitted.new, fitted.unused, len(fitted.weights)) == ([], [], len(plain))
    assert parameters_equal(model, ours)
    deeper = dataclasses.replace(TINY, num_hidden_layers=3)
    with pytest.raises(UserError, match=r"bert_model.ckpt.index does not hold .*\(its num_hidden_layers is 2, not 3\)"):
        fit(read_pretrained(folder), BertForPreTraining, deeper)


def test_a_wrong_configuration_is_told_by_its_sizes_with_the_shipped_one_that_fits(tmp_path):
    """BERT-base's shapes in a model of BERT-large's: three tensors, a count, and the configuration to give."""
    base, large = (BertConfig.from_json_file(ROOT / f"bert_configs/{name}.json") for name in ("base", "large"))
    with torch.device("meta"):
        state = BertForPreTraining(base).state_dict()
    weights = {name: weight for name, weight in state.items() if name != DECODER}
    with pytest.raises(UserError) as raised:
        fit(Pretrained(tmp_path / "base.pt", weights, None, None, None), BertForPreTraining, large)
    (sentence,) = raised.value.sentences
    assert sentence.count(" is (") == 3
    assert " and 393 more (its hidden_size is 768, not 1024, its intermediate_size is 3072, not 4096" in sentence
    assert sentence.endswith("its num_hidden_layers is 12, not 24); give --config_file bert_configs/base.json.")
    rows = weights["bert.embeddings.word_embeddings.weight"]
    padded = {"bert.embeddings.word_embeddings.weight": rows.new_empty(30528, rows.shape[1])}
    with pytest.raises(UserError) as raised:  # as NVIDIA pads them, which is no difference
        fit(Pretrained(tmp_path / "base.pt", weights | padded, None, None, None), BertForPreTraining, large)
    assert "vocab_size" not in str(raised.value)
    assert "give --config_file bert_configs/base.json." in str(raised.value)


@pytest.mark.parametrize("kind", [BertModel, BertForMaskedLM])
def test_a_head_is_new_as_a_whole_or_not_at_all(tmp_path, kind):
    write_folder(tmp_path / "hf", published_weights(random_model(kind)), TINY)
    with pytest.raises(
        UserError, match=r"has no weights of the names .*cls\.seq_relationship\.\*.*; give a model that"
    ):
        loaded(tmp_path / "hf", BertForPreTraining)
    fitted = loaded(tmp_path / "hf", BertForPreTraining, heads_may_be_new=True)[1]
    assert {"cls.seq_relationship.weight", "cls.seq_relationship.bias"} <= set(fitted.new)
    assert ("cls.predictions.bias" in fitted.new) == (kind is BertModel)
    half = published_weights(random_model())
    del half["cls.predictions.transform.dense.weight"]
    torch.save(half, tmp_path / "half.pt")
    with pytest.raises(UserError, match=r"transform\.dense\.weight \(32, 32\) is missing"):
        loaded(tmp_path / "half.pt", BertForPreTraining, heads_may_be_new=True)


def test_an_untied_head_is_refused_only_where_it_would_be_used(tmp_path):
    state = dict(random_model().state_dict())
    state[DECODER] = state[DECODER] + 1
    torch.save(state, tmp_path / "untied.pt")
    with pytest.raises(UserError, match=r"decoder\.weight differs from bert\.embeddings"):
        loaded(tmp_path / "untied.pt", BertForPreTraining)
    assert DECODER in loaded(tmp_path / "untied.pt", BertForQuestionAnswering, **FINE_TUNING)[1].unused


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
        ({"model": {"body.weight": "text"}}, "holds no weights"),
        ({"model": 3}, "holds no weights"),
        ([torch.ones(1)], "holds no weights"),
        ({"distilbert.embeddings.word_embeddings.weight": torch.ones(3, 3)}, "holds no BERT, but distilbert"),
        ({EMBEDDINGS: torch.ones(3, 3, dtype=torch.int8)}, "is of type torch.int8; give a model that is not quantized"),
        ({EMBEDDINGS: torch.ones(3, 3), "embeddings.word_embeddings.weight": torch.zeros(3, 3)}, "twice"),
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
        (tmp_path / "x.ckpt.data-00000-of-00001", r"x\.ckpt\.index is missing"),
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
    folder = tmp_path / "download/google_pretrained_weights/uncased_L-24_H-1024_A-16"
    write_google(folder, random_model())
    assert read_pretrained("bert-large-uncased").path == folder / "bert_model.ckpt.index"


def test_the_best_of_several_kinds_is_taken(tmp_path):
    write_google(tmp_path, random_model(seed=1))
    assert read_pretrained(tmp_path).path.name == "bert_model.ckpt.index"
    ours = random_model(seed=2)
    torch.save(ours.state_dict(), tmp_path / "pytorch_model.bin")
    assert read_pretrained(tmp_path).path.name == "pytorch_model.bin"
    assert parameters_equal(loaded(tmp_path, BertForPreTraining)[0], ours)


def test_a_model_among_other_files_is_found_and_its_configuration_may_have_further_keys(tmp_path):
    ours = random_model()
    torch.save(ours.state_dict(), tmp_path / "bert_optimized.pt")
    for name in ("data.bin", "optimizer_0.pt", "scaler.pt", "zero_pp_rank_0_optim_states.pt"):
        (tmp_path / name).touch()
    values = dataclasses.asdict(TINY) | {"num_labels": 2, "output_attentions": False}
    (tmp_path / "config.json").write_text(json.dumps(values))
    pretrained = read_pretrained(tmp_path)
    assert (pretrained.path.name, pretrained.config) == ("bert_optimized.pt", TINY)
    (tmp_path / "config.json").write_text(json.dumps({"hiden_act": values.pop("hidden_act")} | values))
    with pytest.raises(UserError, match="unknown key 'hiden_act'"):
        read_pretrained(tmp_path)


def test_a_bare_file_says_what_it_lacks(tmp_path):
    torch.save({"model": nvidia_state(random_model())}, tmp_path / "bare.pt")
    pretrained = read_pretrained(tmp_path / "bare.pt")
    assert pretrained.config is None
    with pytest.raises(UserError, match="give --config_file"):
        pretrained.known_config()
    (tmp_path / "config.json").write_text('{"learning_rate": 1}')  # of another program
    assert read_pretrained(tmp_path / "bare.pt").config is None


def test_indices_that_lead_elsewhere_are_refused(tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    for content in ({"weight_map": {"w": "../secret", "y": "a"}}, {"weight_map": {"w": ["a"]}}, {}):
        index.write_text(json.dumps(content))
        with pytest.raises(UserError, match=r"no weight_map of files beside it|damaged or no"):
            read_pretrained(tmp_path)


def test_files_that_are_no_safetensors_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    write_folder(tmp_path / "hf", random_model().state_dict())
    content = (tmp_path / "hf/model.safetensors").read_bytes()
    for damaged in (b"", b"version https://git-lfs.github.com/spec/v1\n", content[:-4], content[:100]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"model\.safetensors is missing, damaged"):
            read_pretrained(path)


@pytest.mark.parametrize(
    ("google", "published"),
    [
        ("bert/embeddings/position_embeddings", "bert.embeddings.position_embeddings.weight"),
        ("bert/embeddings/LayerNorm/beta", "bert.embeddings.LayerNorm.bias"),
        ("bert/encoder/layer_11/attention/self/query/kernel", "bert.encoder.layer.11.attention.self.query.weight"),
        ("bert/encoder/layer_0/output/LayerNorm/gamma", "bert.encoder.layer.0.output.LayerNorm.weight"),
        ("bert/pooler/dense/bias", "bert.pooler.dense.bias"),
        ("cls/predictions/output_bias", "cls.predictions.bias"),
        ("cls/predictions/transform/dense/kernel", "cls.predictions.transform.dense.weight"),
        ("cls/seq_relationship/output_weights", "cls.seq_relationship.weight"),
        ("cls/squad/output_weights", "qa_outputs.weight"),
        ("cls/squad/output_bias", "qa_outputs.bias"),
        ("output_weights", "classifier.weight"),
    ],
)
def test_published_names(tmp_path, google, published):
    weights = {google: torch.zeros(1), EMBEDDINGS: torch.zeros(3, 3)}
    torch.save(weights, tmp_path / "some.pt")
    assert read_pretrained(tmp_path / "some.pt").weights.keys() == {published, EMBEDDINGS}


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
    write_folder(folder / "hf", ours.state_dict(), config)
    torch.save({"model": nvidia_state(ours)}, folder / "nvidia.pt")
    for name in ("google", "hf", "nvidia.pt"):
        assert read_pretrained(folder / name).config == (config if name != "nvidia.pt" else None)
        assert parameters_equal(loaded(folder / name, build, config)[0], ours), name


@pytest.mark.parametrize("kind", ["safetensors", "pt", "google"])
def test_weights_are_mapped_not_read(tmp_path, kind):
    """Reading a model leaves its weights in the file: their pages are in memory only once, in the page cache."""
    if kind == "safetensors":
        write_folder(tmp_path / "hf", random_model().state_dict(), TINY)
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
