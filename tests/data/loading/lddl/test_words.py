"""Looking tokens up, and reading .npy vectors, against plain Python."""

import io

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.loading.lddl.vectors import VectorError, read_vectors
from data.loading.lddl.words import UNKNOWN, Words

VOCABULARY = {
    "[UNK]": 0,
    "": 1,
    " ": 2,
    "two words": 3,
    "a": 4,
    "##a": 5,
    "é": 6,
    "漢": 7,
    "\u2003": 8,
    "ab": 9,
    "[CLS]": 10,
    "[SEP]": 11,
}
TOKENS = st.sampled_from(["a", "##a", "é", "漢", "ab", "[UNK]", "b", "A", "\0", "a\0"])
TEXTS = st.lists(TOKENS, max_size=6).map(" ".join)


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
@given(columns=st.lists(st.lists(TEXTS, min_size=1, max_size=5), min_size=1, max_size=3), skipped=st.integers(0, 2))
def test_tokens_are_looked_up_as_a_dictionary_does(kind, columns, skipped):
    arrays = [pa.array([*["ab ab"] * skipped, *texts, "a"], kind).slice(skipped, len(texts)) for texts in columns]
    for texts, (ids, lengths) in zip(columns, Words(VOCABULARY).look_up(arrays), strict=True):
        assert lengths.tolist() == [len(text.split()) for text in texts]
        assert ids.tolist() == [VOCABULARY.get(token, UNKNOWN) for text in texts for token in text.split()]


def test_what_has_a_blank_in_it_is_no_word():
    ((ids, lengths),) = Words(VOCABULARY).look_up([pa.array(["a  a", "two words", " a"])])
    assert ids.tolist() == [4, UNKNOWN, 4, UNKNOWN, UNKNOWN, UNKNOWN, 4]
    assert lengths.tolist() == [3, 2, 2]


def save(vector):
    file = io.BytesIO()
    np.save(file, vector)
    return file.getvalue()


@given(
    vectors=st.lists(st.lists(st.integers(0, 2**16 - 1), max_size=90), min_size=1, max_size=8),
    kinds=st.lists(st.sampled_from(["<u2", "<u2", "<u2", ">u2", "<i8", "|u1"]), min_size=8, max_size=8),
)
def test_vectors_are_those_that_numpy_loads(vectors, kinds):
    saved = [save(np.array(vector).astype(kind)) for vector, kind in zip(vectors, kinds, strict=False)]
    offsets = np.cumsum([0, *map(len, saved)])
    values, lengths = read_vectors(offsets, np.frombuffer(b"".join(saved), dtype=np.uint8))
    loaded = [np.load(io.BytesIO(each)) for each in saved]
    assert lengths.tolist() == list(map(len, loaded))
    assert values.tolist() == [int(value) for each in loaded for value in each]


def test_the_first_that_is_no_vector_is_told():
    saved = [save(np.arange(3)), b"x" * 128, b""]
    offsets = np.cumsum([0, *map(len, saved)])
    with pytest.raises(VectorError) as error:
        read_vectors(offsets, np.frombuffer(b"".join(saved), dtype=np.uint8))
    assert error.value.index == 1
