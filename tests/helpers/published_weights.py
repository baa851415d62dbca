"""Small models with random weights, the same weights as others publish them, and whether two models agree."""

import dataclasses
import json
import re
from pathlib import Path

import torch
import transformers
from flat_batches import BATCH_LAYOUTS, as_padded, random_flat_batch
from tensorflow_writer import write_bundle

from modeling import (
    SEQUENCE_MODELS,
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertModel,
)
from pretrained.hugging_face import write_hugging_face
from pretrained.load import Pretrained
from tokenization import BertTokenizer

EMBEDDINGS, DECODER = "bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"
TOKENS = ["[PAD]", *(f"[unused{i}]" for i in range(80)), "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "##s", "cat", "."]
TINY = BertConfig(
    vocab_size=len(TOKENS),  # 89, no multiple of 8
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=64,
    max_position_embeddings=32,
)
CONFIGS = {
    "tiny": TINY,
    "base cut to two layers": dataclasses.replace(
        TINY, hidden_size=768, num_attention_heads=12, intermediate_size=3072, max_position_embeddings=512
    ),
    "tiny with the tanh form of GELU": dataclasses.replace(TINY, hidden_act="gelu_pytorch_tanh"),
}


def random_model(build=BertForPreTraining, config=TINY, seed=0):
    """A model in evaluation whose every weight is random: what starts as zero or one would hide what is lost."""
    torch.manual_seed(seed)
    model = build(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
        bert = model if isinstance(model, BertModel) else model.bert
        bert.embeddings.word_embeddings.weight[config.vocab_size :] = 0  # what fills the vocabulary up
    return model


def published_weights(model):
    prefix = "bert." if isinstance(model, BertModel) else ""
    return {prefix + name: weight for name, weight in model.state_dict().items()}


def write_folder(folder, weights, config=TINY, vocab_file=None, do_lower_case=None, overwrite=False):
    """A Hugging Face folder of these weights; returns the names of those that were left out."""
    model = Pretrained(Path("some.pt"), weights, config, vocab_file)
    return write_hugging_face(folder, model, overwrite, vocab_file and BertTokenizer(vocab_file, do_lower_case))


def outputs(model, batch):
    """What each architecture computes for the real tokens of a batch, as transformers calls it."""
    inputs = [batch[k] for k in ("input_ids", "token_type_ids", "position_ids", "cu_seqlens", "max_seqlen")]
    n_sequences = len(batch["next_sentence_labels"])
    n_tokens = int(batch["cu_seqlens"][n_sequences])
    with torch.no_grad():
        if isinstance(model, BertForQuestionAnswering):
            start, end = model.predict(*inputs)
            return {"start_logits": start[:n_tokens], "end_logits": end[:n_tokens]}
        if isinstance(model, SEQUENCE_MODELS):
            return {"logits": model.predict(*inputs, n_sequences)}
        bert = model if isinstance(model, BertModel) else model.bert
        hidden_states = bert(*inputs)
        if isinstance(model, BertModel):
            pooled = bert.pooler(bert(*inputs, batch["cu_seqlens"][:n_sequences]))
            return {"last_hidden_state": hidden_states[:n_tokens], "pooler_output": pooled}
        if isinstance(model, BertForMaskedLM):
            return {"logits": model.cls.predictions.logits(hidden_states[:n_tokens], model.embedding_weight)}
        scores = model.predict(*inputs, torch.arange(n_tokens), n_sequences)
        return {
            "prediction_logits": scores.masked_lm_logits,
            "seq_relationship_logits": scores.next_sentence_logits,
        }


def assert_equal_outputs(ours, reference, vocab_size=TINY.vocab_size):
    """Logits within 1e-5 of the largest, at full and at mixed lengths."""
    for name, (lengths, width) in BATCH_LAYOUTS.items():
        n_padding = 2 if "padding sequences" in name else 0
        batch = random_flat_batch(lengths, width, vocab_size, n_padding)
        padded = as_padded(batch)
        real = padded["attention_mask"].bool()
        with torch.no_grad():
            expected = reference(**{k: padded[k] for k in ("input_ids", "token_type_ids", "attention_mask")})
        for key, found in outputs(ours, batch).items():
            wanted = expected[key] if expected[key].shape[:2] != real.shape else expected[key][real]
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5 * max(1.0, wanted.abs().max().item()))


def load_with_transformers(folder, architecture):
    model, info = getattr(transformers, architecture).from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    return model.eval()


def google_name(name):
    """The published name in Google's way, written down from their checkpoints."""
    for ours, theirs in (
        ("qa_outputs.weight", "cls/squad/output_weights"),
        ("qa_outputs.bias", "cls/squad/output_bias"),
        ("cls.seq_relationship.weight", "cls/seq_relationship/output_weights"),
        ("cls.seq_relationship.bias", "cls/seq_relationship/output_bias"),
        ("cls.predictions.bias", "cls/predictions/output_bias"),
        ("_embeddings.weight", "_embeddings"),
        ("LayerNorm.weight", "LayerNorm/gamma"),
        ("LayerNorm.bias", "LayerNorm/beta"),
        (".weight", "/kernel"),
    ):
        if name.endswith(ours):
            name = name.removesuffix(ours) + theirs
    return re.sub(r"layer\.(\d+)", r"layer_\1", name).replace(".", "/")


def write_google(folder, model, config=TINY, extra=None):
    """A folder as Google's archives unpack to."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, weight in published_weights(model).items():
        if name != DECODER:
            theirs = google_name(name)
            tensors[theirs] = (weight.T if theirs.endswith("/kernel") else weight).detach().contiguous().numpy()
    write_bundle(folder / "bert_model.ckpt", tensors | (extra or {}))
    (folder / "bert_model.ckpt.meta").write_bytes(b"a graph")
    (folder / "bert_config.json").write_text(json.dumps(dataclasses.asdict(config)))
    (folder / "vocab.txt").write_text("\n".join(TOKENS) + "\n")
    return folder


def nvidia_state(model, n_padding=7):
    """The names of NVIDIA's fused layers, and rows that fill the vocabulary up."""
    state = {}
    for name, weight in model.state_dict().items():
        if any(part in name for part in ("intermediate", "pooler", "transform.dense")):
            name = name.replace("dense.", "dense_act.")
        if name in (EMBEDDINGS, DECODER, "cls.predictions.bias"):
            weight = torch.cat([weight, torch.full((n_padding, *weight.shape[1:]), 3.0)])
        state[name] = weight.clone()
    if EMBEDDINGS in state and DECODER in state:
        state[DECODER] = state[EMBEDDINGS]
    return state


def parameters_equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
