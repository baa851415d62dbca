"""Texts to sequences against a naive loop that cuts one token at a time, and batches that hold them."""

import numpy as np
import pytest
from corpora import WORDS, write_vocab
from hypothesis import given, settings
from hypothesis import strategies as st

from data.loading.labelled_pairs import LabelledDataset, synthetic_sequences, tokenized
from tokenization import BertTokenizer

TEXTS = st.lists(st.sampled_from([*WORDS[:5], "unknown", "a.b"]), max_size=14).map(" ".join)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return BertTokenizer(write_vocab(tmp_path_factory.mktemp("vocab") / "vocab.txt"))


def naive(texts, tokenizer, max_seq_length):
    """Ids and types, a token at a time as in google-research/bert's _truncate_seq_pair."""
    first, *others = ([*tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text))] for text in texts)
    second = others[0] if others else []
    while len(first) + len(second) > max_seq_length - 2 - len(others):
        (first if len(first) > len(second) else second).pop()
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    ids, types = [cls, *first, sep], [0] * (len(first) + 2)
    if others:
        ids, types = [*ids, *second, sep], types + [1] * (len(second) + 1)
    return ids, types


@given(
    st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=6),
    st.integers(5, 30),
    st.integers(1, 3),
    st.sampled_from((1, 2)),
)
@settings(deadline=None)
def test_sequences_and_their_batches(tokenizer, rows, max_seq_length, micro_batch_size, n_texts):
    columns = list(zip(*rows, strict=True))[:n_texts]
    labels = np.arange(len(rows))
    dataset = LabelledDataset(tokenized(columns, labels, tokenizer, max_seq_length), micro_batch_size, max_seq_length)
    seen = []
    with dataset.evaluation_batches() as batches:
        for batch in batches:
            assert batch.labels.tolist() == batch.indices.tolist()
            for place, index in enumerate(batch.indices.tolist()):
                begin, end = batch.cu_seqlens[place], batch.cu_seqlens[place + 1]
                found = batch.input_ids[begin:end].tolist(), batch.token_type_ids[begin:end].tolist()
                assert found == naive(rows[index][:n_texts], tokenizer, max_seq_length)
                seen.append(index)
    assert sorted(seen) == list(range(len(rows)))


@pytest.mark.parametrize("mean", [None, 20])
def test_synthetic_sequences(mean):
    dataset = LabelledDataset(synthetic_sequences(64, 32, 100, 2, 1, mean), 4, 32)
    with dataset.iterate() as batches:
        batch = next(batches)
    assert batch.labels.tolist() == np.linspace(0, 5, 64, dtype=np.float32)[batch.indices].tolist()
    assert np.bincount(synthetic_sequences(9, 32, 100, 1, 3, mean).labels).tolist() == [3, 3, 3]
    assert batch.input_ids.max() < 100
    lengths = batch.cu_seqlens.diff()[:4]
    if mean is None:
        assert lengths.tolist() == [32] * 4
        assert batch.token_type_ids[:128].sum() == 64
    else:
        assert np.diff(dataset.offsets).mean() == pytest.approx(mean, abs=0.5)
