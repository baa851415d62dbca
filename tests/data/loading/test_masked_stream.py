"""Shards that are masked as they are read: their masks are taken out, and the new ones follow from the position."""

import itertools

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shards import write_shard, write_shards

from common.errors import UserError
from data.artifacts.manifest import FILE_NAME, FileRecord, Manifest
from data.loading.flat_batch import PaddedSamples
from data.loading.masking import DynamicMasking, masking_of
from data.loading.pretraining_dataset import PretrainingDataset
from data.masked_lm.instances import SpecialIds
from data.masked_lm.masking import MASKING_RULES

S, P, CLS, SEP, MASK, VOCAB_SIZE = 16, 4, 1, 2, 3, 40
SPECIAL = SpecialIds(CLS, SEP, MASK, VOCAB_SIZE, np.arange(VOCAB_SIZE) % 3 == 0)
RULES = sorted(MASKING_RULES)
WORDS = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]", *(f"##{i}" if i % 3 == 0 else f"{i}" for i in range(5, 40))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Shards of 3 masked positions a row, and one of 2."""
    folder = write_shards(tmp_path_factory.mktemp("shards"), rows_per_file=(12, 7))
    write_shard(folder / "sample_training_2.hdf5", 4, predictions=2, seed=5)
    return folder


@pytest.fixture
def vocab_file(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    return tmp_path / "vocab.txt"


def open_stream(folder, batch=1, rule="tokens", seed=3, **options):
    masking = DynamicMasking(rule, 0.25, P, SPECIAL, seed)
    options = {"num_workers": 0, "n_predictions": range(S + 1), "masking": masking, **options}
    return PretrainingDataset(folder, batch, S, P, seed, **options)


def rows_of(dataset, n_batches, start=0):
    """(ids, (place, original) pairs) of each sequence, in the order of the stream."""
    rows = []
    with dataset.iterate(start) as batches:
        for batch in itertools.islice(batches, n_batches):
            ids, cuts = batch.input_ids.tolist(), batch.cu_seqlens.tolist()
            n = batch.work.n_masked
            masked = list(zip(batch.masked_lm_positions[:n].tolist(), batch.masked_lm_labels[:n].tolist(), strict=True))
            for begin, end in itertools.pairwise(cuts[: dataset.micro_batch_size + 1]):
                own = tuple((place - begin, label) for place, label in masked if begin <= place < end)
                rows.append((tuple(ids[begin:end]), own))
    return rows


def original(row):
    ids, masked = list(row[0]), dict(row[1])
    return tuple(masked.get(place, token) for place, token in enumerate(ids))


def shard_originals(folder):
    """Row by row, from the files."""
    found = []
    for path in sorted(folder.glob("*.hdf5")):
        with h5py.File(path) as file:
            for i in range(len(file["input_ids"])):
                ids = file["input_ids"][i].tolist()
                for place, token in zip(file["masked_lm_positions"][i], file["masked_lm_ids"][i], strict=True):
                    if place:
                        ids[place] = int(token)
                found.append(tuple(ids[: file["input_mask"][i].sum()]))
    return found


@pytest.mark.parametrize("rule", MASKING_RULES)
def test_the_rows_are_those_of_the_shards_and_their_masks_are_new(folder, rule):
    rows = rows_of(open_stream(folder, rule=rule), 3 * 23)
    epochs = [rows[23 * epoch : 23 * (epoch + 1)] for epoch in range(3)]
    for epoch in epochs:
        assert sorted(map(original, epoch)) == sorted(shard_originals(folder))
    for ids, masked in rows:
        wanted = min(max(1, round(0.25 * len(ids))), P)
        assert len(masked) == wanted or (rule == "whole_words" and len(masked) < wanted)
        assert not {CLS, SEP} & {token for _, token in masked}
    places = [{original(row): tuple(place for place, _ in row[1]) for row in epoch} for epoch in epochs]
    changed = sum(places[0][row] != places[1][row] for row in places[0])
    assert changed > 15  # of 23 in which one of some hundred choices comes twice


@pytest.fixture(scope="module")
def streams(folder):
    """By the rule, the first 84 rows, read one by one."""
    return {rule: rows_of(open_stream(folder, rule=rule), 84) for rule in MASKING_RULES}


@pytest.mark.parametrize("rule", RULES)
def test_the_masks_are_those_of_the_rows_place_in_the_stream(folder, streams, rule):
    """Both epochs against the same stream with the shards' masks, of which each row is masked by itself."""
    masking = DynamicMasking(rule, 0.25, P, SPECIAL, 3)
    with open_stream(folder, masking=None).iterate() as batches:
        for position, batch in enumerate(itertools.islice(batches, 46)):
            length, n_masked = batch.work.sum_lengths, batch.work.n_masked
            tokens = torch.stack([batch.input_ids, batch.token_type_ids])[:, None, :length].numpy()
            places, labels = batch.masked_lm_positions, batch.masked_lm_labels
            masks = torch.stack([places, labels])[:, None, :n_masked].numpy()
            row = PaddedSamples(*tokens, np.array([length]), *masks, np.array([n_masked]), np.zeros(1, np.int8))
            masked = masking.mask(row, np.array([position]))
            pairs = zip(masked.masked_lm_positions[0].tolist(), masked.masked_lm_ids[0].tolist(), strict=True)
            assert (tuple(masked.input_ids[0].tolist()), tuple(pairs)[: masked.n_masked[0]]) == streams[rule][position]


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 5), st.integers(1, 3), st.integers(0, 60), st.sampled_from([0, 1]), st.sampled_from(RULES))
def test_any_ranks_from_any_position_draw_one_stream(folder, streams, batch, world_size, start, workers, rule):
    n_batches = 24 // (batch * world_size)
    options = {"world_size": world_size, "num_workers": workers, "rule": rule}
    ranks = [rows_of(open_stream(folder, batch, rank=rank, **options), n_batches, start) for rank in range(world_size)]
    cut = [[rows[i * batch : (i + 1) * batch] for i in range(n_batches)] for rows in ranks]
    together = [row for batches in zip(*cut, strict=True) for rows in batches for row in rows]
    assert together == streams[rule][start : start + n_batches * batch * world_size]


def test_a_stream_that_is_resumed_at_every_position_goes_on_as_it_was(folder, streams):
    whole = streams["tokens"][:48]
    assert [rows_of(open_stream(folder), 1, position)[0] for position in range(48)] == whole
    assert rows_of(open_stream(folder, seed=4), 48) != whole


@pytest.mark.parametrize(
    ("rule", "places"),
    [
        ("tokens", [[4, 7, 12, 13], [6, 9, 12, 13], [1, 4, 7, 12]]),
        ("whole_words", [[1, 6, 7, 11], [2, 9, 10, 14], [2, 6, 7, 11]]),
    ],
)
def test_the_same_bits_as_ever(rule, places):
    """A checkpoint of an older version resumes in the same stream: these numbers may never change."""
    ids, lengths = np.tile(np.arange(5, 5 + S, dtype=np.int32), (3, 1)), np.full(3, S, np.int32)
    segments, nothing = np.zeros((3, S), np.int8), np.zeros((3, 0), np.int32)
    rows = PaddedSamples(ids, segments, lengths, nothing, nothing, lengths * 0, lengths)
    masked = DynamicMasking(rule, 0.25, P, SPECIAL, 42).mask(rows, 10**9 + np.arange(3))
    assert masked.masked_lm_positions.tolist() == places
    shown = np.take_along_axis(masked.input_ids, masked.masked_lm_positions, 1).tolist()
    assert shown == [[MASK, 27, MASK, MASK], [MASK, MASK, MASK, 12], [MASK, MASK, MASK, 37]]


def test_evaluation_shards_may_have_fewer_masked_positions(folder, tmp_path):
    write_shards(tmp_path, rows_per_file=(3,), name="test")
    write_shard(tmp_path / "more_test.hdf5", 2, predictions=2)
    dataset = PretrainingDataset(tmp_path, 5, S, P, split="test", n_predictions=range(1, P + 1))
    with dataset.evaluation_batches() as batches:
        (batch,) = batches
    assert batch.work.n_masked == 3 * 3 + 2 * 2
    with pytest.raises(UserError, match="of 3 predictions, not of at most the --max_predictions_per_seq 2 asked for"):
        PretrainingDataset(tmp_path, 5, S, 2, split="test", n_predictions=range(1, 3))


# What the rows are masked with


def write_manifest(folder, **parameters):
    outputs = {path.name: FileRecord(path.stat().st_size, "") for path in folder.glob("*.hdf5")}
    Manifest("create_hdf5_files", "sample", parameters, {}, outputs).write(folder / FILE_NAME)


def test_what_is_not_given_is_as_the_manifest_says(folder, tmp_path, vocab_file):
    ids = {"cls": 1, "sep": 2, "mask": 3, "size": 40}
    write_manifest(tmp_path, masked_lm_prob=0.3, whole_word_masking=False, vocabulary=ids)
    masking = masking_of(tmp_path, 20, 7)
    assert masking == DynamicMasking("tokens", 0.3, 20, SpecialIds(1, 2, 3, 40), 7)
    assert masking.special.is_continuation is None
    given = masking_of(tmp_path, 20, 7, rule="whole_words", masked_lm_prob=0.2, vocab_file=vocab_file)
    assert (given.rule, given.masked_lm_prob) == ("whole_words", 0.2)
    assert given.special.is_continuation.tolist() == [word.startswith("##") for word in WORDS]
    write_manifest(tmp_path, whole_word_masking=True)
    assert masking_of(tmp_path, 20, 7, vocab_file=vocab_file).rule == "whole_words"


def test_without_a_manifest_the_folders_name_or_the_published_share_counts(tmp_path, vocab_file):
    named = tmp_path / "hdf5_masked_lm_prob_0.25_random_seed_1" / "corpus"
    named.mkdir(parents=True)
    assert masking_of(named, 20, 7, vocab_file=vocab_file).masked_lm_prob == 0.25
    other = masking_of(tmp_path, 20, 7, vocab_file=vocab_file)
    assert (other.rule, other.masked_lm_prob) == ("tokens", 0.15)


@pytest.mark.parametrize(
    ("parameters", "rule", "sentence"),
    [
        (None, None, "No manifest.json in .* says which token is .MASK., .* give the --vocab_file"),
        ({}, "tokens", "No manifest.json in .* says which token is .MASK."),
        ({"vocabulary": {"cls": 1, "sep": 2, "size": 40}}, None, "No manifest.json in .* says which token is .MASK."),
        ({"vocabulary": "bert"}, None, "No manifest.json in .* says which token is .MASK."),
        (
            {"whole_word_masking": True},
            None,
            "do not say which tokens continue a word, .* rule whole_words must know; give the --vocab_file",
        ),
        ({"vocabulary": {"cls": 1, "sep": 2, "mask": 3, "size": 40}}, "whole_words", "which tokens continue a word"),
        ({"masked_lm_prob": 15}, None, "masked_lm_prob 15 is no share of tokens; give --masked_lm_prob"),
        ({"masked_lm_prob": "0.15"}, None, "masked_lm_prob '0.15' is no share of tokens"),
        ({"masking": "spirals"}, None, "names the masking rule 'spirals'"),
    ],
)
def test_what_is_not_known_is_asked_for(tmp_path, parameters, rule, sentence):
    if parameters is not None:
        write_manifest(tmp_path, **parameters)
    with pytest.raises(UserError, match=sentence):
        masking_of(tmp_path, 20, 7, rule=rule)


def test_another_vocabularys_mask_is_noticed(folder):
    """Where the shards' masks show another token, before anything is trained on them."""
    other = DynamicMasking("tokens", 0.25, P, SpecialIds(CLS, SEP, 9, VOCAB_SIZE), 3)
    with pytest.raises(
        UserError, match=r"Of 36 masked tokens in .*, 3\d are not the token 9.*\[MASK\]; give the --voc"
    ):
        rows_of(open_stream(folder, masking=other), 23)


def test_a_row_whose_only_masked_token_stayed_is_no_sign_of_another_vocabulary(tmp_path):
    write_shard(tmp_path / "one_training.hdf5", 1, predictions=1)
    with h5py.File(tmp_path / "one_training.hdf5", "r+") as file:
        place = file["masked_lm_positions"][0, 0]
        file["input_ids"][0, place] = file["masked_lm_ids"][0, 0]
    (row,) = rows_of(open_stream(tmp_path), 1)
    assert original(row) == shard_originals(tmp_path)[0]
