"""NVIDIA's rows without padding and packed ones through the loader, against the same rows padded, and bad ones."""

import itertools
import random
import shutil

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from varlen_shards import make_rows, packs_of, write_fixed, write_folders, write_packed, write_ragged, write_varlen

from common.errors import UserError
from data.loading.masking import DynamicMasking
from data.loading.pretraining_dataset import PretrainingDataset
from data.loading.shard_files import PACKED, VARLEN, datasets_of, shard_files
from data.loading.varlen.heap import read_entries, read_heap
from data.loading.varlen.rows import Limits, read_rows
from data.masked_lm.instances import SpecialIds
from modeling import BertConfig, BertForPreTraining

S, P, VOCAB = 32, 5, 40
KINDS = ("fixed", "varlen", "packed")


def open_folder(folder, batch=4, seed=1, shape=(S, P), **options):
    return PretrainingDataset(folder, batch, *shape, seed, **{"num_workers": 0, "vocab_size": VOCAB, **options})


def take(dataset, n_batches, start=0, batches_per_step=1):
    with dataset.iterate(start, batches_per_step) as batches:
        return list(itertools.islice(batches, n_batches))


def assert_equal(ones, others):
    for one, other in zip(ones, others, strict=True):
        for name, value in vars(one).items():
            same = torch.equal if isinstance(value, torch.Tensor) else lambda a, b: a == b
            assert same(value, getattr(other, name)), name


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The same rows in three formats; copy what you change."""
    folder = tmp_path_factory.mktemp("formats")
    write_folders(folder, (20, 31, 8), S, P)
    return folder


@pytest.mark.parametrize("kind", KINDS[1:])
def test_batches_are_those_of_the_same_rows_padded(folders, kind):
    fixed, other = (open_folder(folders / name) for name in ("fixed", kind))
    assert other.rows_per_file.tolist() == [20, 31, 8]
    for batches_per_step in (1, 4):  # in the order of the stream, and dealt by length
        streams = [take(dataset, 40, batches_per_step=batches_per_step) for dataset in (fixed, other)]
        assert_equal(*streams)
    with fixed.evaluation_batches() as ones, other.evaluation_batches() as others:
        assert_equal(ones, others)


def test_the_loss_is_that_of_the_same_rows_padded(folders):
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = BertForPreTraining(BertConfig(vocab_size=VOCAB, max_position_embeddings=S, **shape)).eval()
    found = []
    for kind in KINDS:
        (batch,) = take(open_folder(folders / kind, batch=16), 1)
        labels = batch.masked_lm_positions, batch.masked_lm_labels, batch.next_sentence_labels
        with torch.no_grad():
            found.append([float(loss) for loss in model(*batch.encoder_inputs, *labels)])
    assert found[0] == found[1] == found[2]
    assert all(np.isfinite(found[0]))


@settings(max_examples=15, deadline=None)
@given(
    rows_per_file=st.lists(st.integers(0, 12), min_size=1, max_size=4).filter(any),
    longest=st.integers(6, 40),
    most_masked=st.integers(1, 6),
    batch=st.integers(1, 5),
    world_size=st.integers(1, 3),
    start=st.integers(0, 40),
    seed=st.integers(0, 2**30),
)
def test_packs_of_any_rows_give_them_back_from_any_position_on_any_rank(
    tmp_path_factory, rows_per_file, longest, most_masked, batch, world_size, start, seed
):
    folder = tmp_path_factory.mktemp("formats")
    rows = write_folders(folder, rows_per_file, longest, most_masked, seed)
    batch, world_size = min(batch, max(1, len(rows) // world_size)), min(world_size, len(rows))
    options = {"batch": batch, "seed": seed, "shape": (longest, most_masked), "world_size": world_size}
    for rank in range(world_size):
        streams = [take(open_folder(folder / kind, rank=rank, **options), 6, start) for kind in KINDS]
        assert_equal(streams[0], streams[1])
        assert_equal(streams[0], streams[2])


def test_new_masks_are_those_of_the_same_rows_padded(folders):
    masking = DynamicMasking("tokens", 0.15, P, SpecialIds(1, 2, 3, VOCAB), seed=5)
    streams = [take(open_folder(folders / k, masking=masking, n_predictions=range(S + 1)), 20) for k in KINDS]
    assert_equal(streams[0], streams[1])
    assert_equal(streams[0], streams[2])
    wrong = DynamicMasking("tokens", 0.15, P, SpecialIds(1, 2, 4, VOCAB), seed=5)
    with pytest.raises(UserError, match=r"are not the token 4, which should be \[MASK\]"):
        open_folder(folders / "packed", masking=wrong, n_predictions=range(S + 1))


def test_files_are_known_by_nvidias_names_and_formats_by_their_datasets(folders, tmp_path):
    names = [[path.name for path in shard_files(folders / kind)] for kind in KINDS]
    assert names[1] == ["part_00000_of_00003.hdf", "part_00001_of_00003.hdf", "part_00002_of_00003.hdf"]
    assert names[2] == ["part_00000", "part_00001", "part_00002"]
    assert [datasets_of(shard_files(folders / kind)[0]) for kind in KINDS[1:]] == [VARLEN, PACKED]
    (tmp_path / "eval").mkdir()
    shutil.copy(folders / "varlen" / names[1][0], tmp_path / "eval" / "part_eval_10k.hdf5")
    assert open_folder(tmp_path / "eval", split="test").n_samples == 20


def test_rows_are_those_that_the_library_reads(tmp_path):
    """Empty ones, ones longer than a heap's usual collection, and hundreds, in the types of NVIDIA's files."""
    rng = random.Random(0)
    rows = [[rng.randint(-9, 99) for _ in range(rng.choice([0, 1, 7, 512, 9000]))] for _ in range(300)]
    for kind in ("int16", "int8", "int32"):
        with h5py.File(tmp_path / "x", "w") as file:
            write_ragged(file, "a", rows, kind)
            write_ragged(file, "b", [[1], *rows], kind)
        with h5py.File(tmp_path / "x") as file:
            entries, expected = read_entries(file["a"], tmp_path / "x"), np.concatenate(file["a"][:])
        assert entries["length"].tolist() == [len(row) for row in rows]
        found = read_heap((tmp_path / "x").read_bytes(), entries, np.dtype(kind), "a", tmp_path / "x")
        assert found.dtype == kind
        assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("storage", [{"compression": "gzip"}, {"chunks": (3,)}])
def test_other_storage_than_nvidias_is_refused(tmp_path, storage):
    write_varlen(tmp_path / "part_0", make_rows(9, S, P), **storage)
    (found,) = refused(tmp_path)
    assert found.startswith(f"{tmp_path}/part_0 keeps the rows of input_ids in another way than NVIDIA's shards; write")


def test_other_files_than_nvidias_are_refused(tmp_path):
    """Offsets count from behind a user block, and short addresses make short entries."""
    few = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    few.set_sizes(4, 4)
    h5py.h5f.create(bytes(tmp_path / "few"), fcpl=few).close()
    h5py.File(tmp_path / "block", "w", userblock_size=512).close()
    for name in ("few", "block"):
        with h5py.File(tmp_path / name, "r+") as file:
            write_ragged(file, "input_ids", [[1, 2], [3], [4, 5, 6]], "int16")
            with pytest.raises(UserError, match=f"{name} keeps the rows of input_ids in another way"):
                read_entries(file["input_ids"], tmp_path / name)


# Bad input


def refused(folder, **options):
    with pytest.raises(UserError) as raised:
        open_folder(folder, **options)
    return [str(problem) for problem in raised.value.problems]


@pytest.fixture
def copy(folders, tmp_path):
    for kind in KINDS:
        shutil.copytree(folders / kind, tmp_path / kind)
    return tmp_path


def change(path, name, row, values):
    with h5py.File(path, "r+") as file:
        file[name][row] = values


@pytest.mark.parametrize("kind", KINDS[1:])
@pytest.mark.parametrize(
    ("name", "values", "sentence"),
    [
        ("segment_ids", [0] * 3, "has {n} input_ids and 3 segment_ids"),
        ("masked_lm_ids", [7], "has {m} masked_lm_positions and 1 masked_lm_ids"),
        ("input_ids", [VOCAB] * 999, "has input_ids that are not from 0 to 39"),
        ("input_ids", [-5] * 999, "has input_ids that are not from 0 to 39"),
        ("masked_lm_ids", [VOCAB] * 999, "has masked_lm_ids that are not from 0 to 39"),
        ("segment_ids", [1, 0] * 500, "has segment_ids that are not zeros followed by ones"),
        ("segment_ids", [2] * 999, "has segment_ids that are not from 0 to 1"),
        ("masked_lm_positions", [0] * 999, "has masked_lm_positions outside of their sample"),
        ("masked_lm_positions", [S] * 999, "has masked_lm_positions outside of their sample"),
    ],
)
def test_a_damaged_row_is_named_before_any_work_in_the_first_file(copy, kind, name, values, sentence):
    path, row = shard_files(copy / kind)[0], 2
    with h5py.File(path) as file:
        n, m = len(file["input_ids"][row]), len(file["masked_lm_positions"][row])
        n_before = len(file[name][row])
    change(path, name, row, values[: n_before if len(values) > 100 else None])
    (found,) = refused(copy / kind)
    assert found.startswith(f"Row {row} of {path} {sentence.format(n=n, m=m)}; g")


@pytest.mark.parametrize(
    ("name", "values", "sentence"),
    [
        ("packed_input_len", [5], "has {n} input_ids, and its packed_input_len come to 5"),
        ("packed_masked_lm_len", [-1], "has {m} masked_lm_positions, and its packed_masked_lm_len come to -1"),
        ("packed_masked_lm_len", [1, 1], "has 1 packed_input_len and 2 packed_masked_lm_len"),
        ("packed_input_len", [], "has 0 packed_input_len and 1 packed_masked_lm_len"),
        ("next_sentence_labels", [2], "has next_sentence_labels that are not 0 or 1"),
    ],
)
def test_a_pack_that_contradicts_itself_is_named(tmp_path, name, values, sentence):
    rows = make_rows(1, S, P)
    write_packed(tmp_path / "part_00000", [rows])
    change(tmp_path / "part_00000", name, 0, np.array(values, int))
    (found,) = refused(tmp_path, batch=1)
    expected = sentence.format(n=len(rows[0][0]), m=len(rows[0][2]))
    assert found.startswith(f"Row 0 of {tmp_path}/part_00000 {expected}") or (
        values == [] and "hold 0 samples" in found  # no file has a sample then
    )


def test_lengths_below_zero_that_sum_up_are_refused(tmp_path):
    rows = make_rows(2, S, P)
    write_packed(tmp_path / "part_00000", [rows])
    n = sum(len(ids) for ids, *_ in rows)
    change(tmp_path / "part_00000", "packed_input_len", 0, [n + 3, -3])
    assert refused(tmp_path, batch=1, shape=(99, P))[0].startswith(
        f"Row 0 of {tmp_path}/part_00000 has a sample without a token"
    )
    write_packed(tmp_path / "part_00000", [rows])
    m = sum(len(masked) for *_, masked, _ in rows)
    change(tmp_path / "part_00000", "packed_masked_lm_len", 0, [-1, m + 1])
    assert "has packed_masked_lm_len below 0" in refused(tmp_path, batch=1, shape=(99, 99))[0]


def test_longer_rows_than_asked_for_are_told_of_all_files_at_once(copy):
    (tokens, predictions) = refused(copy / "varlen", shape=(S - 1, P - 1))
    first = shard_files(copy / "varlen")[0]
    assert tokens == (
        f"{first} (and 2 others) holds sequences of up to {S} tokens, more than the --max_seq_length {S - 1} asked "
        f"for; give --max_seq_length {S}, or another folder."
    )
    assert f"up to {P} predictions, more than the --max_predictions_per_seq {P - 1}" in predictions
    (found,) = refused(copy / "packed", shape=(S - 1, P))  # what of packed rows the first file says
    assert f"has a sample of more tokens than --max_seq_length {S - 1}; give --max_seq_length {S}" in found


def test_a_wrong_row_of_a_later_file_is_named_when_it_is_read(copy):
    path = shard_files(copy / "packed")[2]
    change(path, "masked_lm_positions", 1, [0])
    dataset = open_folder(copy / "packed")
    with dataset.evaluation_batches() as batches, pytest.raises(UserError, match=f"Row 1 of {path} has"):
        list(batches)


def test_two_formats_in_a_folder_are_refused(copy):
    shutil.copy(copy / "packed" / "part_00000", copy / "varlen" / "part_00003_of_00003.hdf")
    (found,) = refused(copy / "varlen")
    assert f"part_00003_of_00003.hdf holds rows in another format than {shard_files(copy / 'varlen')[0].name};" in found
    shutil.copy(copy / "varlen" / "part_00000_of_00003.hdf", copy / "fixed" / "part-00009-of-00009.hdf5")
    (found,) = refused(copy / "fixed")
    assert "part-00009-of-00009.hdf5 has no dataset input_ids of integers in 2 dimensions" in found


def test_shuffled_and_unshuffled_shards_in_a_folder_are_refused(copy):
    shutil.copy(copy / "varlen" / "part_00000_of_00003.hdf", copy / "varlen" / "part_00000_of_00003.hdf5")
    (found,) = refused(copy / "varlen")
    assert f"The shards in {copy}/varlen have names with .hdf and .hdf5, as two sets of the same rows" in found


@pytest.mark.parametrize("kind", KINDS[1:])
def test_datasets_that_differ_in_rows_or_are_missing_or_unwritten_are_refused(copy, kind):
    path = shard_files(copy / kind)[1]
    with h5py.File(path, "r+") as file:
        del file["masked_lm_ids"]
    assert refused(copy / kind)[0].startswith(
        f"{path} has no dataset masked_lm_ids of integers in rows of any lengths;"
    )
    with h5py.File(path, "r+") as file:
        write_ragged(file, "masked_lm_ids", [[1]] * 2, "int16")
    assert refused(copy / kind)[0].startswith(f"{path} has datasets with different numbers of rows;")
    with h5py.File(path, "r+") as file:
        del file["masked_lm_ids"]
        file.create_dataset("masked_lm_ids", (31,), h5py.vlen_dtype(np.int16))
    assert refused(copy / kind)[0].startswith(f"{path} declares 31 rows of masked_lm_ids and does not hold them all;")


def test_lengths_that_contradict_the_labels_are_a_sentence(copy):
    path = shard_files(copy / "packed")[2]
    change(path, "packed_input_len", 1, [])
    dataset = open_folder(copy / "packed")
    with pytest.raises(UserError, match=f"Row 1 of {path} has 0 packed_input_len and"):
        take(dataset, 40, batches_per_step=4)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_changed_bytes_are_a_sentence_or_change_no_structure(tmp_path, kind):
    rows, path = make_rows(40, S, P), tmp_path / "part_0"
    if kind == "varlen":
        write_varlen(path, rows)
    else:
        write_packed(path, packs_of(rows, random.Random(0), S))
    content, refused = path.read_bytes(), 0
    for seed in range(80):
        rng = np.random.default_rng(seed)
        changed = bytearray(content[: None if seed % 10 else rng.integers(len(content))])
        for place in rng.integers(len(changed), size=rng.integers(1, 30)):
            changed[place] = rng.integers(256)
        if seed % 10 == 1:  # a block that was never copied, over which the library never returns
            first = int(rng.integers(2048, len(content) - 512))
            changed[first : first + 512] = bytes(512)
        path.write_bytes(changed)
        try:
            read_rows(path, {"varlen": VARLEN, "packed": PACKED}[kind], Limits(S, P, VOCAB))
        except UserError:
            refused += 1
    assert 20 < refused < 80


@pytest.mark.parametrize("behind", [0, 16])
def test_a_block_of_zeros_in_the_heap_is_a_sentence(tmp_path, behind):
    path = tmp_path / "part_0"
    write_varlen(path, make_rows(40, S, P))
    content = path.read_bytes()
    at = content.index(b"GCOL") + behind
    path.write_bytes(content[:at] + bytes(512) + content[at + 512 :])
    (found,) = refused(tmp_path, batch=1)
    assert found.startswith(f"Row 0 of {path} has no input_ids where the file says; get it again")


def test_a_row_that_declares_more_than_its_file_holds_is_refused_before_it_is_read(tmp_path):
    write_varlen(tmp_path / "part_0", make_rows(3, S, P))
    with h5py.File(tmp_path / "part_0") as file:
        offset = file["segment_ids"].id.get_offset()
    with open(tmp_path / "part_0", "r+b") as file:
        file.seek(offset)
        file.write((2**31).to_bytes(4, "little"))
    (found,) = refused(tmp_path, batch=1)
    assert found.startswith(f"{tmp_path}/part_0 declares longer rows than a file of its size holds;")


def test_fixed_rows_of_nvidias_types_are_read_as_before(tmp_path):
    rows = make_rows(9, S, P)
    write_fixed(tmp_path / "part-00000-of-00500.hdf5", rows, S, P)
    assert open_folder(tmp_path).n_samples == 9
