"""TensorFlow checkpoints, written by a test-only writer from the format's description, read back exactly."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis.extra.numpy import array_shapes
from tensorflow_writer import DATA_TYPES, entry_message, field, masked, slow_crc32c, write_bundle

from common.errors import UserError
from pretrained import tensorflow as tensorflow_checkpoint
from pretrained.tensorflow import TensorBundle, masked_crc32c, published_name, read_google_weights

NUMPY_TYPES = [name for name in DATA_TYPES if name != "bfloat16"]


def random_array(dtype, shape, seed=0):
    n_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    content = np.random.default_rng(seed).integers(0, 256, n_bytes, dtype=np.uint8)
    return content.view(dtype).reshape(shape)


def some_tensors():
    """More names than one block of the index takes, types that leave others unaligned, a scalar and an empty one."""
    tensors = {f"layer_{i}/kernel": random_array("float32", (3, i + 1), i) for i in range(23)}
    for i, dtype in enumerate(NUMPY_TYPES):
        tensors[f"type/{dtype}"] = random_array(dtype, (5, i + 1), i)
    return tensors | {"scalar": random_array("int64", ()), "empty": np.zeros((0, 4), np.float32)}


def assert_read_back(prefix, tensors):
    bundle = TensorBundle(prefix)
    assert bundle.entries.keys() == tensors.keys()
    for name, array in tensors.items():
        read = bundle.read(name)
        assert (str(read.dtype), read.shape) == (f"torch.{array.dtype}", array.shape)
        assert read.numpy().tobytes() == array.tobytes(), name


@pytest.mark.parametrize("n_shards", [1, 3])
def test_what_was_written_is_read_back(tmp_path, n_shards):
    tensors = some_tensors()
    write_bundle(tmp_path / "model.ckpt", tensors, n_shards)
    assert_read_back(tmp_path / "model.ckpt", tensors)


names = st.text(st.characters(exclude_categories=["Cs"], min_codepoint=1), min_size=1, max_size=40)
arrays = st.tuples(st.sampled_from(NUMPY_TYPES), array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))


@settings(max_examples=60, deadline=None)
@given(kinds=st.dictionaries(names, arrays, max_size=12), n_shards=st.integers(1, 3))
def test_any_names_and_shapes_are_read_back(tmp_path_factory, kinds, n_shards):
    prefix = tmp_path_factory.mktemp("bundle") / "model.ckpt"
    tensors = {name: random_array(*kind, seed) for seed, (name, kind) in enumerate(kinds.items())}
    write_bundle(prefix, tensors, n_shards)
    assert_read_back(prefix, tensors)


def test_bfloat16_is_read_as_its_bits(tmp_path):
    bits = np.array([0x3F80, 0xC049, 0x7F80], np.uint16)
    write_bundle(tmp_path / "model.ckpt", {"w": ("bfloat16", bits)})
    read = TensorBundle(tmp_path / "model.ckpt").read("w")
    assert read.dtype == torch.bfloat16
    assert read.tolist() == [1.0, -3.140625, float("inf")]


def test_writing_to_a_tensor_never_reaches_the_file(tmp_path):
    prefix = tmp_path / "model.ckpt"
    write_bundle(prefix, {"w": np.ones(4, np.float32)})
    before = (tmp_path / "model.ckpt.data-00000-of-00001").read_bytes()
    TensorBundle(prefix).read("w").fill_(7)
    assert (tmp_path / "model.ckpt.data-00000-of-00001").read_bytes() == before


@pytest.mark.parametrize("n_bytes", [0, 1, 511, 4100])
def test_masked_checksums(n_bytes, monkeypatch):
    monkeypatch.setattr(tensorflow_checkpoint, "CRC_CHUNK_BYTES", 512)
    data = random_array("uint8", (n_bytes,), n_bytes)
    assert masked_crc32c(data) == masked(slow_crc32c(data))


def test_a_flipped_bit_names_the_tensor(tmp_path):
    prefix = tmp_path / "model.ckpt"
    tensors = {name: random_array("float32", (7, 3), seed) for seed, name in enumerate("abc")}
    write_bundle(prefix, tensors)
    path = tmp_path / "model.ckpt.data-00000-of-00001"
    content = bytearray(path.read_bytes())
    content[tensors["a"].nbytes + 5] ^= 16
    path.write_bytes(content)
    bundle = TensorBundle(prefix)
    assert torch.equal(bundle.read("a"), torch.from_numpy(tensors["a"]))
    with pytest.raises(UserError, match=r"data-00000-of-00001 is damaged: the checksum of the tensor b differs"):
        bundle.read("b")


def entries_or_sentence(prefix):
    try:
        return TensorBundle(prefix).entries
    except UserError as error:
        return str(error)


def test_a_flipped_bit_anywhere_in_the_index_is_noticed(tmp_path):
    prefix, path = tmp_path / "model.ckpt", tmp_path / "model.ckpt.index"
    write_bundle(prefix, {f"layer_{i}": np.float32([i]) for i in range(9)})
    content, entries = path.read_bytes(), entries_or_sentence(prefix)
    n_unnoticed = 0
    for at in range(len(content)):
        changed = bytearray(content)
        changed[at] ^= 1 << at % 8
        path.write_bytes(changed)
        found = entries_or_sentence(prefix)
        assert found == entries or str(path) in found, at
        n_unnoticed += found == entries
    # Nothing reads the meta-index block (8 bytes and its trailer of 5), its handle and what fills up the footer.
    assert n_unnoticed <= 8 + 5 + 40


def test_truncated_files_are_refused(tmp_path):
    prefix, index = tmp_path / "model.ckpt", tmp_path / "model.ckpt.index"
    write_bundle(prefix, {"first": np.zeros(3, np.float32), "last": np.zeros(5, np.float32)})
    data = tmp_path / "model.ckpt.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"cut short: it ends before the tensor last does \(20 bytes at 12\)"):
        TensorBundle(prefix).read("last")
    data.unlink()
    with pytest.raises(UserError, match="data-00000-of-00001 is missing, and the tensor first"):
        TensorBundle(prefix).read("first")
    content = index.read_bytes()
    for length in range(len(content)):
        index.write_bytes(content[:length])
        with pytest.raises(UserError, match=r"model.ckpt.index is not the index of a TensorFlow checkpoint, or is"):
            TensorBundle(prefix)


def test_wrong_files_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"model\.ckpt\.index is missing"):
        TensorBundle(tmp_path / "model.ckpt")
    (tmp_path / "model.ckpt.index").write_bytes(b"PK\3\4" * 100)
    with pytest.raises(UserError, match="does not end as such files end"):
        TensorBundle(tmp_path / "model.ckpt")
    write_bundle(tmp_path / "model.ckpt", {}, header=field(1, 1) + field(2, 1))
    with pytest.raises(UserError, match="big-endian"):
        TensorBundle(tmp_path / "model.ckpt")


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        (entry_message(7, (2,), 0, 0, 8, 0), "the tensor odd is of TensorFlow's type 7"),
        (entry_message(1, (2,), 0, 0, 8, 0, n_slices=2), "the tensor odd is in 2 slices"),
        (entry_message(1, (2, 3), 0, 0, 8, 0), r"odd is said to have the shape \(2, 3\) and 8 bytes"),
        (entry_message(1, (2,), 5, 0, 8, 0), "data-00005-of-00001 is missing, and the tensor odd"),
        (entry_message(1, (2,), 0, 2**40, 8, 0), "ends before the tensor odd does"),
    ],
)
def test_impossible_tensors_are_refused(tmp_path, message, sentence):
    write_bundle(tmp_path / "model.ckpt", {"good": np.ones(3, np.float32)}, messages={"odd": message})
    bundle = TensorBundle(tmp_path / "model.ckpt")
    assert bundle.read("good").tolist() == [1, 1, 1]
    with pytest.raises(UserError, match=sentence):
        bundle.read("odd")


@pytest.mark.parametrize(
    ("google", "published"),
    [
        ("bert/embeddings/word_embeddings", "bert.embeddings.word_embeddings.weight"),
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
def test_published_names(google, published):
    assert published_name(google) == published


def test_kernels_are_transposed_and_optimizer_slots_dropped(tmp_path):
    kernel, table = random_array("float32", (3, 5)), np.ones((4, 3), np.float32)
    slots = ["global_step", "bert/pooler/dense/kernel/adam_m", "bert/pooler/dense/kernel/adam_v"]
    tensors = {"bert/pooler/dense/kernel": kernel, "bert/embeddings/word_embeddings": table}
    write_bundle(tmp_path / "m", tensors | {name: np.int64(3) for name in slots})
    weights, dropped = read_google_weights(tmp_path / "m")
    assert sorted(dropped) == sorted(slots)
    assert weights.keys() == {"bert.pooler.dense.weight", "bert.embeddings.word_embeddings.weight"}
    assert (weights["bert.pooler.dense.weight"].numpy() == kernel.T).all()
    assert (weights["bert.embeddings.word_embeddings.weight"].numpy() == table).all()
