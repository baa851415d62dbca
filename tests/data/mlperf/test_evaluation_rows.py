"""MLPerf's evaluation rows, against a naive writing of the order of random draws."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_mlperf import nvidia_md5, shuffle_pairs

from common.errors import UserError
from data.masked_lm.instances import InstanceOptions, SpecialIds
from data.mlperf.evaluation_rows import (
    as_instances,
    checksum,
    make_rows,
    pick_rows,
    published_options,
    read_documents,
)
from tokenization import BertTokenizer

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(60))]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    path.write_text("\n".join(VOCABULARY) + "\n")
    return BertTokenizer(path, as_google=True)


def made_of(documents, tokenizer, options, tmp_path):
    text = tmp_path / "eval.txt"
    text.write_text("\n\n".join("\n".join(map(" ".join, document)) for document in documents) + "\n")
    rows = make_rows(read_documents(text, tokenizer), options, SpecialIds.of(tokenizer.vocab))
    names = list(tokenizer.vocab)
    return [
        (
            [names[token] for token in row.input_ids],
            [0] * row.n_first + [1] * (len(row.input_ids) - row.n_first),
            list(row.positions),
            [names[token] for token in row.labels],
            int(row.is_random),
        )
        for row in rows
    ]


def random_documents(seed, n_documents, longest_sentence=30):
    rng = random.Random(seed)
    return [
        [rng.choices(VOCABULARY[5:], k=rng.randint(1, longest_sentence)) for _ in range(rng.randint(1, 12))]
        for _ in range(n_documents)
    ]


def test_rows_are_those_of_the_naive_reference_at_the_published_lengths(tokenizer, tmp_path):
    documents = random_documents(1, 25, longest_sentence=200)
    made = made_of(documents, tokenizer, published_options(), tmp_path)
    assert made == shuffle_pairs(documents, VOCABULARY, 512, 76)
    assert len(made) > 500
    assert {row[4] for row in made} == {0, 1}
    assert max(len(row[2]) for row in made) == 76


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    n_documents=st.integers(1, 5),
    length=st.integers(8, 40),
    most_masked=st.integers(1, 6),
    short=st.sampled_from([0.0, 0.1, 1.0]),
)
def test_rows_of_any_documents_are_those_of_the_naive_reference(
    tokenizer, tmp_path_factory, seed, n_documents, length, most_masked, short
):
    """Of one document too, whose random sentences are its own, and of sentences that fill several rows."""
    documents = random_documents(seed, n_documents)
    options = InstanceOptions(length, most_masked, 0.15, short, dupe_factor=3)
    made = made_of(documents, tokenizer, options, tmp_path_factory.mktemp("text"))
    assert made == shuffle_pairs(documents, VOCABULARY, length, most_masked, passes=3, short=short)


def test_lines_are_read_as_by_the_reference(tokenizer, tmp_path):
    """Line ends of Windows, blanks around sentences, empty documents, and special tokens, which Google's splits."""
    plain, other = tmp_path / "plain.txt", tmp_path / "other.txt"
    plain.write_bytes(b"w1 w2\nw3\n\nw4\n")
    other.write_bytes(b"\r\n\r\n  w1 w2 \r\nw3\r\n \t\r\n\r\nw4")
    expected = [[[6, 7], [8]], [[9]]]
    for path in (plain, other):
        assert [[list(line) for line in document] for document in read_documents(path, tokenizer)] == expected
    other.write_text("[MASK] w1")
    assert [list(line) for line in read_documents(other, tokenizer)[0]] == [[1, 1, 1, 6]]  # [ mask ] are unknown words
    other.write_text("\n\n \n")
    with pytest.raises(UserError, match=r"other\.txt holds no document"):
        read_documents(other, tokenizer)


@pytest.mark.parametrize(("n", "picked"), [(7, [0, 1, 2, 3, 4, 5, 6]), (25, [0, 2, 5, 7, 10, 12, 15, 17, 20, 22])])
def test_rows_are_picked_at_even_distances(n, picked):
    assert pick_rows(range(n), 10) == picked


def test_the_distance_is_divided_first():
    """So 250 * 32.004 is a little less than 8,001, which it would be the other way round."""
    assert pick_rows(range(320_040))[249:251] == [7968, 8000]


def test_the_checksum_is_nvidias(tokenizer, tmp_path):
    documents = random_documents(2, 3)
    text = tmp_path / "eval.txt"
    text.write_text("\n\n".join("\n".join(map(" ".join, document)) for document in documents))
    rows = make_rows(read_documents(text, tokenizer), published_options(), SpecialIds.of(tokenizer.vocab))
    padded = as_instances(rows, published_options())
    lengths = padded.input_mask.sum(axis=1)
    assert checksum(rows) == nvidia_md5([ids[:n] for ids, n in zip(padded.input_ids, lengths, strict=True)])
    assert checksum(rows[:2]) != checksum(rows[1::-1])
    # As md5sum of coreutils gives it: of "['...']" with the MD5 of "[2, 3]" between the quotation marks.
    assert checksum([rows[0]._replace(input_ids=np.array([2, 3]))]) == "52aad83011f3bbb2da307d5e321de596"


def test_rows_are_padded_as_a_shard_has_them(tokenizer, tmp_path):
    options = InstanceOptions(32, 5, 0.15, 0.1, dupe_factor=1)
    text = tmp_path / "eval.txt"
    text.write_text("w1 w2 w3\nw4 w5\n\nw6 w7\n")
    rows = make_rows(read_documents(text, tokenizer), options, SpecialIds.of(tokenizer.vocab))
    padded = as_instances(rows, options)
    for i, row in enumerate(rows):
        n, k = len(row.input_ids), len(row.positions)
        assert padded.input_ids[i].tolist() == [*row.input_ids, *[0] * (32 - n)]
        assert padded.input_mask[i].tolist() == [1] * n + [0] * (32 - n)
        assert padded.segment_ids[i].tolist() == [0] * row.n_first + [1] * (n - row.n_first) + [0] * (32 - n)
        assert padded.masked_lm_positions[i].tolist() == [*row.positions, *[0] * (5 - k)]
        assert padded.masked_lm_ids[i].tolist() == [*row.labels, *[0] * (5 - k)]
        assert padded.next_sentence_labels[i] == row.is_random
