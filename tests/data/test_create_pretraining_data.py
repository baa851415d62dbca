"""Text shards to HDF5: what counts as a document, the files' exact format, and that they load elsewhere."""

import hashlib
import itertools
import re
import time

import h5py
import numpy as np
import pytest
from corpora import WORDS, read_as_nvidia, tree, write_text_shard, write_vocab

import data.create_pretraining_data
from common.errors import UserError
from data.create_pretraining_data import create_shards, describe, read_documents
from data.loading.pretraining_dataset import PretrainingDataset
from data.masked_lm.instances import InstanceOptions, choose_pairs
from tokenization import SPECIAL_TOKENS, BertTokenizer

OPTIONS = InstanceOptions(64, 10, 0.15, 0.1, 3)


@pytest.fixture(scope="module")
def vocab(tmp_path_factory):
    return write_vocab(tmp_path_factory.mktemp("vocab") / "vocab.txt")


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    return write_text_shard(tmp_path_factory.mktemp("shard") / "shard.txt")


def create_shard(inputs, output, vocab, options=OPTIONS, seed=1, compression="gzip"):
    """One HDF5 file; returns its record."""
    return create_shards(inputs, [(options, output)], vocab, True, seed, compression)[0]


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def documents_of(path, vocab):
    """Texts as lists of documents, sentences and tokens."""
    tokenizer = BertTokenizer(vocab)
    documents, *_ = read_documents([path], tokenizer)
    offsets = documents.sentence_offsets
    sentences = [
        tokenizer.convert_ids_to_tokens(documents.ids[start:end].tolist()) for start, end in itertools.pairwise(offsets)
    ]
    bounds = documents.document_offsets
    return [sentences[start:end] for start, end in itertools.pairwise(bounds)]


@pytest.mark.parametrize(
    "text",
    [
        "Bala bane\nbari\n\nbaso\n\n",
        "Bala bane\nbari\n\nbaso",  # no empty line at the end
        "\n\n\nBala bane\nbari\n\n\n\nbaso\n\n\n",  # more empty lines than needed
        "Bala bane\r\nbari\r\n\r\nbaso\r\n",
        "  Bala bane \nbari\n \t\nbaso\n",  # a line of white space ends a document too
        "Bala bane\n\x7f\nbari\n\n\x7f\u200b\n\nbaso\n\x00",  # sentences and documents without a token
    ],
)
def test_sentences_and_documents(tmp_path, vocab, text):
    (tmp_path / "shard.txt").write_bytes(text.encode())
    assert documents_of(tmp_path / "shard.txt", vocab) == [[["bala", "bane"], ["bari"]], [["baso"]]]


def test_several_files_are_one_shard(tmp_path, vocab):
    for name in "ab":
        (tmp_path / name).write_text(f"{WORDS[ord(name)]}\n", encoding="utf-8")
    documents, hashes, _ = read_documents([tmp_path / "a", tmp_path / "b"], BertTokenizer(vocab))
    assert hashes == [sha256(tmp_path / name) for name in "ab"]
    assert documents.document_offsets.tolist() == [0, 1, 2]


@pytest.mark.parametrize(("text", "n_documents"), [("", 0), ("\x7f\n\n\x7f\n", 0), ("bala\nbane\n", 1)])
def test_too_few_documents(tmp_path, vocab, text, n_documents):
    (tmp_path / "shard.txt").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=rf"shard.txt holds {n_documents} documents?, .*make fewer shards"):
        create_shard([tmp_path / "shard.txt"], tmp_path / "out.hdf5", vocab)
    assert list(tree(tmp_path)) == ["shard.txt"]


def test_format(tmp_path, vocab, shard):
    output = tmp_path / "new" / "shard.hdf5"
    n_rows = create_shard([shard], output, vocab).counts["rows"]
    with h5py.File(output) as file:
        found = {name: (dataset.dtype.str, dataset.shape, dataset.compression) for name, dataset in file.items()}
    assert found == {
        "input_ids": ("<i4", (n_rows, 64), "gzip"),
        "input_mask": ("|i1", (n_rows, 64), "gzip"),
        "segment_ids": ("|i1", (n_rows, 64), "gzip"),
        "masked_lm_positions": ("<i4", (n_rows, 10), "gzip"),
        "masked_lm_ids": ("<i4", (n_rows, 10), "gzip"),
        "next_sentence_labels": ("|i1", (n_rows,), "gzip"),
    }


def test_files_follow_from_text_seed_and_name(tmp_path, vocab, shard):
    def content(folder, name, seed):
        create_shard([shard], tmp_path / folder / name, vocab, seed=seed)
        return (tmp_path / folder / name).read_bytes()

    first = content("a", "x_training_0.hdf5", 1)
    time.sleep(1.1)  # HDF5 can note the second of writing
    assert content("b", "x_training_0.hdf5", 1) == first
    assert content("b", "x_training_1.hdf5", 1) != first
    assert content("c", "x_training_0.hdf5", 2) != first


def test_failure_keeps_the_earlier_file(tmp_path, vocab, shard, monkeypatch):
    output = tmp_path / "shard.hdf5"
    create_shard([shard], output, vocab)
    before = tree(tmp_path)

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr("data.masked_lm.instances.mask", fail)
    with pytest.raises(OSError, match="disk full"):
        create_shard([shard], output, vocab, seed=2)
    assert tree(tmp_path) == before


def test_reads_as_nvidias_reader_does(tmp_path, vocab, shard):
    """As their PyTorch dataset: int64 arrays, labels of -1 but where a position stands, cut at the first zero."""
    output = tmp_path / "shard.hdf5"
    n_rows = create_shard([shard], output, vocab).counts["rows"]
    input_ids, input_mask, segment_ids, positions, masked_ids, next_sentence = read_as_nvidia(output)
    tokenizer = BertTokenizer(vocab)
    sentences = " ".join(" ".join(line.split()) for line in shard.read_text(encoding="utf-8").split("\n") if line)
    text = tokenizer.tokenize(sentences)
    pairs_of_text = set(itertools.pairwise(text))
    for row in range(n_rows):
        n_masked = np.flatnonzero(positions[row] == 0)[0] if (positions[row] == 0).any() else 10
        labels = np.full(64, -1)
        labels[positions[row, :n_masked]] = masked_ids[row, :n_masked]
        tokens = tokenizer.convert_ids_to_tokens(np.where(labels == -1, input_ids[row], labels)[input_mask[row] == 1])
        second = int(np.flatnonzero(segment_ids[row])[0])
        assert (tokens[0], tokens[second - 1], tokens[-1]) == ("[CLS]", "[SEP]", "[SEP]")
        for segment in (tokens[1 : second - 1], tokens[second:-1]):
            assert set(itertools.pairwise(segment)) <= pairs_of_text
    assert set(next_sentence) == {0, 1}


def test_loads_for_training(tmp_path, vocab, shard):
    n_rows = create_shard([shard], tmp_path / "x_training_0.hdf5", vocab).counts["rows"]
    dataset = PretrainingDataset(tmp_path, 4, 64, 10, vocab_size=BertTokenizer(vocab).vocab_size, num_workers=0)
    assert dataset.n_samples == n_rows
    _, mask, _, positions, _, _ = read_as_nvidia(tmp_path / "x_training_0.hdf5")
    with dataset.evaluation_batches() as batches:
        totals = np.sum([[batch.work.sum_lengths, batch.work.n_masked] for batch in batches], axis=0)
    assert totals.tolist() == [mask.sum(), (positions > 0).sum()]


def test_both_lengths_in_one_pass_are_the_files_made_alone(tmp_path, vocab, shard, monkeypatch):
    options = [OPTIONS, InstanceOptions(32, 5, 0.2, 0.3, 2), InstanceOptions(64, 10, 0.15, 0.1, 3, "whole_words")]
    for number, option in enumerate(options):
        create_shard([shard], tmp_path / "alone" / str(number) / "x.hdf5", vocab, option)
    read = []
    monkeypatch.setattr(BertTokenizer, "encode_batch", count_calls(read, BertTokenizer.encode_batch))
    outputs = [(option, tmp_path / "together" / str(number) / "x.hdf5") for number, option in enumerate(options)]
    create_shards([shard], outputs[::-1], vocab, True, 1)
    assert len(read) == 1
    assert tree(tmp_path / "together") == tree(tmp_path / "alone")
    assert len(set(tree(tmp_path / "alone").values())) == 3


def count_calls(calls, function):
    def counted(*arguments):
        calls.append(arguments)
        return function(*arguments)

    return counted


def test_lengths_do_not_repeat_each_others_draws(tmp_path, vocab):
    """The seed is the same; which pairs begin at a place with a random next sentence is not."""
    shard = write_text_shard(tmp_path / "shard.txt", n_documents=600, seed=5)
    documents, *_ = read_documents([shard], BertTokenizer(vocab))
    of_length = []
    for length in (64, 128):
        pairs = choose_pairs(documents, InstanceOptions(length, 10, 0.15, 0.1, 1), 7)
        of_length.append({start: is_random for start, _, _, _, is_random in pairs.tolist()})
    common = sorted(of_length[0].keys() & of_length[1].keys())
    labels = np.array([[of_length[0][start], of_length[1][start]] for start in common])
    assert len(common) > 300
    assert abs(np.corrcoef(labels.T)[0, 1]) < 4.5 / np.sqrt(len(common))


def test_records(tmp_path, vocab, shard):
    output = tmp_path / "x.hdf5"
    (record,) = create_shards([shard], [(OPTIONS, output)], vocab, True, 1)
    assert (record.bytes, record.sha256) == (output.stat().st_size, sha256(output))
    with h5py.File(output) as file:
        rows, tokens = len(file["input_ids"]), int((file["input_ids"][:] != 0).sum())
        masked = int((file["masked_lm_positions"][:] != 0).sum())
    texts = [text for text in shard.read_text(encoding="utf-8").split("\n\n") if text]
    sentences = sum(len(text.split("\n")) for text in texts)
    assert record.counts == {
        "rows": rows,
        "tokens": tokens,
        "masked": masked,
        "documents": len(texts),
        "sentences": sentences,
        "documents_of_one_sentence": sum("\n" not in text for text in texts),
        "documents_without_a_token": 0,
        "sentences_without_a_token": 0,
        "text_tokens": len(BertTokenizer(vocab).tokenize(" ".join(texts))),
        "unknown_tokens": 0,
        "text_tokens_in_no_row": record.counts["text_tokens_in_no_row"],
    }


def test_what_is_left_out_and_what_is_unknown_is_counted_and_said(tmp_path, vocab):
    text = "Bala qqq\n\x7f\nbari\n\n\x7f\n\n\u200b\n\x00\n\nbaso\n\n \n\nbala qqq\nbane"
    (tmp_path / "shard.txt").write_text(text, encoding="utf-8")
    (tmp_path / "more.txt").write_text("\x7f\n\nbaso", encoding="utf-8")
    options = InstanceOptions(32, 5, 0.15, 0.1, 1)
    counts = create_shard([tmp_path / "shard.txt", tmp_path / "more.txt"], tmp_path / "x.hdf5", vocab, options).counts
    wanted = {
        "documents": 4,
        "sentences": 6,
        "documents_of_one_sentence": 2,
        "documents_without_a_token": 3,
        "sentences_without_a_token": 5,
        "text_tokens": 8,
        "unknown_tokens": 2,
        "text_tokens_in_no_row": 0,
    }
    assert {name: counts[name] for name in wanted} == wanted
    assert [*describe(counts.__getitem__, True)] == [
        "  of 8 tokens of text 25.00% are [UNK], and 0.00% are in no row; 2 of 4 documents have one sentence",
        "  left out: 3 documents and 5 sentences without a token",
    ]
    many = {name: 1000 * number for name, number in counts.items()}
    for do_lower_case, flag in ((True, "--no-do_lower_case"), (False, "--do_lower_case"), (None, "--vocab_file")):
        assert re.fullmatch(
            rf"warning: 25\.0% of 8,000 tokens are \[UNK\], more than 2%: .*give.* {flag}.*\.",
            list(describe(many.__getitem__, do_lower_case))[-1],
        )


def test_a_lone_surrogate_in_a_shard_is_passed_over(tmp_path, vocab):
    text = "bala\nba\ud800ne \udfff bari\n\nbaso\n".encode("utf-8", "surrogatepass")
    (tmp_path / "shard.txt").write_bytes(text)
    assert documents_of(tmp_path / "shard.txt", vocab) == [[["bala"], ["bane", "bari"]], [["baso"]]]


def test_text_is_read_in_pieces(tmp_path, vocab, shard, monkeypatch):
    whole = create_shard([shard], tmp_path / "a" / "x.hdf5", vocab)
    monkeypatch.setattr(data.create_pretraining_data, "BYTES_AT_A_TIME", 50)
    assert create_shard([shard], tmp_path / "b" / "x.hdf5", vocab) == whole


def test_more_text_than_memory_for_it(tmp_path, vocab, shard, monkeypatch):
    monkeypatch.setattr(data.create_pretraining_data, "MAX_TEXT_BYTES", shard.stat().st_size - 1)
    with pytest.raises(UserError, match=rf"With {shard} there are more than .* MB of text.*make more shards"):
        create_shard([shard], tmp_path / "x.hdf5", vocab)
    assert not tree(tmp_path)


def test_whole_words(tmp_path, shard):
    """Words of two pieces: with the flag, both are masked or neither but where a segment was cut."""
    vocabulary = [*SPECIAL_TOKENS, ".", *{word[:2] for word in WORDS}, *{f"##{word[2:]}" for word in WORDS}]
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("\n".join(vocabulary) + "\n", encoding="utf-8")

    def share_of_whole(masking):
        output = tmp_path / f"{masking}.hdf5"
        create_shard([shard], output, vocab, InstanceOptions(64, 10, 0.15, 0.1, 5, masking))
        _, _, _, positions, masked_ids, _ = read_as_nvidia(output)
        begins = np.array([token[:2] != "##" and token != "." for token in vocabulary])
        is_first = begins[masked_ids[:, :-1]] & (positions[:, :-1] > 0)
        both = is_first & (positions[:, 1:] == positions[:, :-1] + 1)
        return both.sum() / is_first.sum()

    assert share_of_whole("whole_words") > 0.97
    assert share_of_whole("tokens") < 0.4
