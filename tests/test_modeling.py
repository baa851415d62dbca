"""The model against Hugging Face's: same weights, same batch, same numbers."""

import json

import pytest
import torch
import transformers
from flat_batches import BATCH_LAYOUTS, as_padded, random_flat_batch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from kernels.layers import ACTIVATIONS
from modeling import (
    BertConfig,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForSequenceRegression,
    BertForThreeClasses,
    BertModel,
    LayerNorm,
)

VOCAB = 101  # not a multiple of 8, so that the padding of the vocabulary takes part
SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 16,
}
WITHOUT_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
ENCODER_INPUTS = ("input_ids", "token_type_ids", "position_ids", "cu_seqlens", "max_seqlen")


def config(**changes):
    return BertConfig(**{**SHAPE, **WITHOUT_DROPOUT, **changes})


def reference_model(model_class=transformers.BertForPreTraining, **changes):
    torch.manual_seed(1)
    values = {**SHAPE, **WITHOUT_DROPOUT, **changes}
    model = model_class(transformers.BertConfig(**values, attn_implementation="eager"))
    with torch.no_grad():
        for (
            parameter
        ) in model.parameters():  # biases and LayerNorms away from zero and one, or they would prove nothing
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


def pair():
    reference, ours = reference_model(), BertForPreTraining(config())
    ours.load_state_dict(reference.state_dict())
    return reference, ours


def layout(name):
    lengths, width = BATCH_LAYOUTS[name]
    return random_flat_batch(lengths, width, VOCAB, n_padding_sequences=2 if "padding" in name else 0)


def relative_error(actual, expected):
    return ((actual.double() - expected.double()).norm() / expected.double().norm()).item()


@pytest.mark.parametrize("name", BATCH_LAYOUTS)
@pytest.mark.parametrize("checkpoint_activations", [False, True])
def test_losses_and_gradients_equal_hugging_face(name, checkpoint_activations):
    reference, ours = pair()
    ours.bert.encoder.checkpoint_activations = checkpoint_activations
    batch = layout(name)
    output, expected = ours(**batch), reference(**as_padded(batch))
    assert output.loss.item() == pytest.approx(expected.loss.item(), rel=1e-5)
    assert (output.mlm_loss + output.nsp_loss).item() == pytest.approx(expected.loss.item(), rel=1e-5)
    output.loss.backward()
    expected.loss.backward()
    gradients = {name: parameter.grad for name, parameter in reference.named_parameters()}
    for suffix in ("weight", "bias"):
        for i in range(SHAPE["num_hidden_layers"]):
            parts = [
                gradients.pop(f"bert.encoder.layer.{i}.attention.self.{n}.{suffix}") for n in ("query", "key", "value")
            ]
            gradients[f"bert.encoder.layer.{i}.attention.self.query_key_value.{suffix}"] = torch.cat(parts)
    for parameter_name, parameter in ours.named_parameters():
        gradient = parameter.grad
        if "word_embeddings" in parameter_name:
            assert (gradient[VOCAB:] == 0).all()
            gradient = gradient[:VOCAB]
        expected_gradient = gradients.pop(parameter_name)
        if parameter_name.endswith("query_key_value.bias"):
            # A key's bias shifts all scores of a row alike, so its true gradient is zero and only rounding is left.
            torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-7)
        else:
            assert relative_error(gradient, expected_gradient) < 1e-5, parameter_name
    assert not gradients


def gradients_of(loss, model):
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@given(
    lengths=st.lists(st.integers(1, 16), min_size=1, max_size=4),
    checkpoint_activations=st.booleans(),
    data=st.data(),
)
@settings(max_examples=20, deadline=None)
def test_hidden_states_of_some_tokens_are_those_among_all(lengths, checkpoint_activations, data):
    """With all gradients, in any order, and of tokens that come more than once."""
    n_tokens = sum(lengths)
    tokens = torch.tensor(data.draw(st.lists(st.integers(0, n_tokens - 1), min_size=1, max_size=2 * n_tokens)))
    batch = random_flat_batch(lengths, 16, VOCAB, masked_per_sequence=1)
    model = BertModel(config()).double()
    model.compute_dtype, model.encoder.checkpoint_activations = torch.float64, checkpoint_activations
    inputs = [batch[name] for name in ENCODER_INPUTS]
    found, expected = model(*inputs, tokens), model(*inputs)[tokens]
    torch.testing.assert_close(found, expected)
    weight = torch.randn(found.shape, dtype=found.dtype, generator=torch.Generator().manual_seed(3))
    found, expected = (gradients_of((states * weight).sum(), model) for states in (found, expected))
    torch.testing.assert_close(found, expected)


def test_a_masked_cls_that_padding_points_at_has_the_gradients_of_hugging_face():
    """One token is read by both heads, and by what fills the masked positions up."""
    reference, ours = pair()
    batch = layout("unpadded")
    batch["masked_lm_positions"][0] = 0
    output, expected = ours(**batch), reference(**as_padded(batch))
    assert (batch["masked_lm_positions"] == 0).sum() >= 3
    assert output.loss.item() == pytest.approx(expected.loss.item(), rel=1e-5)
    found, wanted = gradients_of(output.loss, ours), gradients_of(expected.loss, reference)
    for name in set(found) & set(wanted) - {"bert.embeddings.word_embeddings.weight"}:
        assert relative_error(found[name], wanted[name]) < 1e-5, name


@pytest.mark.parametrize("is_dense", [True, False])
def test_behind_its_attention_the_last_layer_computes_what_is_read_alone(is_dense):
    """Of all layers, the feed-forward block's rows; by NVIDIA's flag, those of the last are every token and [CLS]."""
    _, ours = pair()
    n_rows, batch = [], layout("unpadded")
    for layer in ours.bert.encoder.layer:
        layer.intermediate.register_forward_hook(lambda module, inputs, output: n_rows.append(len(output)))
    expected = ours(**batch)
    ours.is_dense = is_dense
    n_rows.clear()
    output = ours(**batch)
    n_tokens, n_sequences = len(batch["input_ids"]), len(batch["next_sentence_labels"])
    assert n_rows == [n_tokens, n_tokens, n_sequences + (len(batch["masked_lm_labels"]) if is_dense else n_tokens)]
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(gradients_of(output.loss, ours), gradients_of(expected.loss, ours), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", BATCH_LAYOUTS)
def test_hidden_states_and_logits_equal_hugging_face(name):
    reference, ours = pair()
    batch = layout(name)
    padded = as_padded(batch)
    expected = reference(**padded, output_hidden_states=True)
    inputs = [batch[name] for name in ENCODER_INPUTS]
    n_sequences = len(batch["next_sentence_labels"])
    n_tokens = batch["cu_seqlens"][n_sequences]
    hidden_states = ours.bert(*inputs)[:n_tokens]
    real = padded["attention_mask"].bool()
    assert relative_error(hidden_states, expected.hidden_states[-1][real]) < 1e-5
    predictions = ours.predict(*inputs, torch.arange(n_tokens), n_sequences)
    assert relative_error(predictions.masked_lm_logits, expected.prediction_logits[real]) < 1e-5
    assert relative_error(predictions.next_sentence_logits, expected.seq_relationship_logits) < 1e-5


@pytest.mark.parametrize("name", BATCH_LAYOUTS)
def test_bf16_stays_within_its_rounding(name):
    reference, ours = pair()
    ours.bert.compute_dtype = torch.bfloat16
    batch = layout(name)
    output, expected = ours(**batch), reference(**as_padded(batch))
    assert output.loss.item() == pytest.approx(expected.loss.item(), rel=2**-7)
    output.loss.backward()
    expected.loss.backward()
    weight = "bert.encoder.layer.1.intermediate.dense.weight"
    ours_gradient, expected_gradient = ours.get_parameter(weight).grad, reference.get_parameter(weight).grad
    assert ours_gradient.dtype == torch.float32
    assert relative_error(ours_gradient, expected_gradient) < 0.03


def test_state_dict_has_the_published_names_and_loads_into_hugging_face():
    torch.manual_seed(0)
    ours, reference = BertForPreTraining(config()), reference_model()
    state = ours.state_dict()
    assert state["bert.embeddings.word_embeddings.weight"].shape == (VOCAB, SHAPE["hidden_size"])
    assert "cls.predictions.decoder.bias" not in state
    problems = reference.load_state_dict(state, strict=False)
    assert problems.missing_keys in ([], ["cls.predictions.decoder.bias"])
    assert not problems.unexpected_keys
    reference.tie_weights()
    batch = layout("unpadded")
    assert ours(**batch).loss.item() == pytest.approx(reference(**as_padded(batch)).loss.item(), rel=1e-5)


def test_nvidia_names_and_padded_vocabulary_load():
    _, ours = pair()
    theirs = {}
    for name, tensor in ours.state_dict().items():
        if any(part in name for part in ("intermediate", "pooler", "transform.dense")):
            name = name.replace("dense.", "dense_act.")
        theirs[name] = tensor
    garbage = torch.full((3, SHAPE["hidden_size"]), 7.0)
    for name in ("bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"):
        theirs[name] = torch.cat([theirs[name], garbage])
    loaded = BertForPreTraining(config())
    loaded.load_state_dict(theirs)
    assert (loaded.embedding_weight[VOCAB:] == 0).all()
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), ours.parameters(), strict=True))


def test_a_missing_weight_is_not_loaded_in_silence():
    state = BertForPreTraining(config()).state_dict()
    del state["bert.encoder.layer.1.attention.self.key.weight"]
    with pytest.raises(RuntimeError, match="query_key_value"):
        BertForPreTraining(config()).load_state_dict(state)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_are_those_of_hugging_face(activation):
    """In the layers and in the masked-LM head; the forms of GELU differ by more than the tolerance."""
    reference, ours = reference_model(hidden_act=activation), BertForPreTraining(config(hidden_act=activation))
    ours.load_state_dict(reference.state_dict())
    batch = layout("full")
    inputs = [batch[name] for name in ENCODER_INPUTS]
    padded = as_padded(batch)
    with torch.no_grad():
        for parameter in (*reference.parameters(), *ours.parameters()):
            parameter.mul_(3)  # away from zero, where all forms are a half of x
        found = ours.predict(*inputs, torch.arange(len(batch["input_ids"])), len(batch["next_sentence_labels"]))
        wanted = reference(**{name: padded[name] for name in ("input_ids", "token_type_ids", "attention_mask")})
    torch.testing.assert_close(
        found.masked_lm_logits, wanted.prediction_logits[padded["attention_mask"].bool()], rtol=0, atol=2e-4
    )


@pytest.mark.parametrize("kind", ["unpadded", "full"])
def test_question_answering_model_equals_hugging_face(kind):
    reference = reference_model(transformers.BertForQuestionAnswering)
    ours = BertForQuestionAnswering(config())
    ours.load_state_dict(reference.state_dict())
    batch = layout(kind)
    padded = as_padded(batch)
    real = padded["attention_mask"].bool()
    n_sequences = len(batch["next_sentence_labels"])
    lengths = real.sum(1)[:n_sequences]
    starts = torch.randint(2**20, (n_sequences,), generator=torch.Generator().manual_seed(1)) % lengths
    ends = torch.randint(2**20, (n_sequences,), generator=torch.Generator().manual_seed(2)) % lengths
    ends[0] = starts[0] = 0  # no answer: [CLS]
    inputs = {name: padded[name] for name in ("input_ids", "token_type_ids", "attention_mask")}
    expected = reference(**inputs)
    flat = [batch[name] for name in ENCODER_INPUTS]
    start, end = ours.predict(*flat)
    torch.testing.assert_close(start, expected.start_logits[real])
    torch.testing.assert_close(end, expected.end_logits[real])

    # Hugging Face's loss lets padding take part in the softmax; masked, as the published code for TPUs did, it is ours.
    def loss(logits, positions):
        return torch.nn.functional.cross_entropy(
            logits[:n_sequences].masked_fill(~real[:n_sequences], -1e30), positions
        )

    wanted = loss(expected.start_logits, starts), loss(expected.end_logits, ends)
    output = ours(*flat, starts, ends)
    assert output.start_loss.item() == pytest.approx(wanted[0].item(), rel=1e-5)
    assert output.end_loss.item() == pytest.approx(wanted[1].item(), rel=1e-5)
    output.loss.backward()
    (sum(wanted) / 2).backward()
    for name, parameter in reference.qa_outputs.named_parameters():
        torch.testing.assert_close(dict(ours.qa_outputs.named_parameters())[name].grad, parameter.grad)
    ours_embedding = ours.bert.embeddings.word_embeddings.weight.grad[:VOCAB]
    torch.testing.assert_close(
        ours_embedding, reference.bert.embeddings.word_embeddings.weight.grad, rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("kind", BATCH_LAYOUTS)
@pytest.mark.parametrize("model", [BertForSequenceRegression, BertForSequenceClassification, BertForThreeClasses])
def test_models_of_whole_sequences_equal_hugging_face(kind, model):
    reference = reference_model(transformers.BertForSequenceClassification, num_labels=model.n_outputs)
    ours = model(config())
    ours.load_state_dict(reference.state_dict())
    batch = layout(kind)
    flat = [batch[name] for name in ENCODER_INPUTS]
    n_sequences = len(batch["next_sentence_labels"])
    labels = torch.arange(n_sequences) % model.n_outputs
    if model.n_outputs == 1:
        labels = torch.linspace(0, 5, n_sequences)
    padded = {name: as_padded(batch)[name] for name in ("input_ids", "token_type_ids", "attention_mask")}
    expected = reference(**padded, labels=labels)
    torch.testing.assert_close(ours.predict(*flat, n_sequences), expected.logits)
    loss = ours(*flat, labels)
    assert loss.item() == pytest.approx(expected.loss.item(), rel=1e-5)
    loss.backward()
    expected.loss.backward()
    for name in ("classifier.weight", "classifier.bias", "bert.pooler.dense.weight", "bert.embeddings.LayerNorm.bias"):
        assert relative_error(ours.get_parameter(name).grad, reference.get_parameter(name).grad) < 1e-5, name


def test_initialization_is_a_normal_cut_at_two_deviations():
    torch.manual_seed(0)
    model = BertForPreTraining(BertConfig(vocab_size=2000, hidden_size=64, num_attention_heads=4, num_hidden_layers=2))
    for name, parameter in model.named_parameters():
        if "LayerNorm.weight" in name:
            assert (parameter == 1).all()
        elif name.endswith("bias"):
            assert (parameter == 0).all()
        else:
            assert parameter.abs().max() <= 0.04, name
    # The standard deviation of a standard normal cut at ±2 is 0.8796.
    assert model.embedding_weight.std().item() == pytest.approx(0.02 * 0.8796, rel=0.01)


def test_dropout_is_applied_where_published():
    """With p on embeddings, attention weights and both outputs, training differs from evaluation and between passes."""
    torch.manual_seed(0)
    batch = layout("full")
    for field in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        model = BertForPreTraining(config(**{field: 0.5}))
        first, second = model(**batch).loss.item(), model(**batch).loss.item()
        model.eval()
        assert first != second
        assert model(**batch).loss.item() == model(**batch).loss.item()


def test_checkpointed_activations_repeat_the_same_dropout():
    batch = layout("unpadded")
    model = BertForPreTraining(config(hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.3))
    gradients = []
    for checkpoint_activations in (False, True):
        model.bert.encoder.checkpoint_activations = checkpoint_activations
        model.zero_grad()
        torch.manual_seed(5)
        model(**batch).loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    torch.testing.assert_close(*gradients)


def test_apex_layer_norm_without_apex_is_one_clear_sentence():
    with pytest.raises(UserError, match="--layer_norm apex"):
        LayerNorm(8, "apex")


@pytest.mark.parametrize(
    ("values", "sentences"),
    [
        ({"vocab_size": 10, "hiden_size": 12, "n_layer": 3}, ["'hiden_size'", "'n_layer'"]),
        ({"hidden_size": 12}, ["vocab_size is missing"]),
        ({"vocab_size": 0, "hidden_act": "mish", "hidden_dropout_prob": 1.5}, ["vocab_size is 0", "'mish'", "is 1.5"]),
        ({"vocab_size": 10, "hidden_size": 100, "num_attention_heads": 3}, ["not a multiple"]),
    ],
)
def test_bad_configurations_are_reported_whole(tmp_path, values, sentences):
    path = tmp_path / "bert.json"
    path.write_text(json.dumps(values))
    with pytest.raises(UserError) as raised:
        BertConfig.from_json_file(path)
    for sentence in [*sentences, str(path)]:
        assert sentence in str(raised.value)


@pytest.mark.parametrize("name", ["tiny", "base", "large"])
def test_shipped_configurations(name):
    shipped = BertConfig.from_json_file(f"bert_configs/{name}.json")
    published = {"tiny": (2, 128, 2, 512), "base": (12, 768, 12, 3072), "large": (24, 1024, 16, 4096)}
    assert published[name] == (
        shipped.num_hidden_layers,
        shipped.hidden_size,
        shipped.num_attention_heads,
        shipped.intermediate_size,
    )
    assert (shipped.vocab_size, shipped.padded_vocab_size) == (30522, 30528)
    if name == "large":
        assert shipped.encoder_parameters == pytest.approx(301.99e6, rel=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("name", BATCH_LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gpu_equals_cpu(name, dtype):
    _, ours = pair()
    batch = layout(name)
    expected = ours(**batch)
    expected.loss.backward()
    gradients = [p.grad for p in ours.parameters()]
    ours.zero_grad()
    ours.cuda().bert.compute_dtype = dtype
    output = ours(**{k: v.cuda() if torch.is_tensor(v) else v for k, v in batch.items()})
    output.loss.backward()
    tolerance = 1e-4 if dtype == torch.float32 else 0.04
    assert output.loss.item() == pytest.approx(expected.loss.item(), rel=tolerance)
    flat = [torch.cat([g.flatten() for g in group]) for group in (gradients, [p.grad.cpu() for p in ours.parameters()])]
    assert relative_error(flat[1], flat[0]) < tolerance


@pytest.mark.gpu
def test_a_step_never_waits_for_the_gpu():
    model = BertModel(config(hidden_dropout_prob=0.1)).cuda()
    batch = {k: v.cuda() if torch.is_tensor(v) else v for k, v in layout("unpadded").items()}
    inputs = [batch[name] for name in ENCODER_INPUTS]
    for dtype in (torch.float32, torch.bfloat16):
        model.compute_dtype = dtype
        model(*inputs).sum().backward()
        torch.cuda.set_sync_debug_mode("error")
        try:
            model(*inputs).float().sum().backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
