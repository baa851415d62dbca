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
from pretrained.tensorflow import masked_crc32c, read_google_weights, read_tensor_bundle

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


def read(prefix):
    return read_tensor_bundle(prefix.with_name(prefix.name + ".index"))


def assert_read_back(prefix, tensors):
    found = read(prefix)
    assert found.keys() == tensors.keys()
    for name, array in tensors.items():
        assert (str(found[name].dtype), found[name].shape) == (f"torch.{array.dtype}", array.shape)
        assert found[name].numpy().tobytes() == array.tobytes(), name


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
    found = read(tmp_path / "model.ckpt")["w"]
    assert found.dtype == torch.bfloat16
    assert found.tolist() == [1.0, -3.140625, float("inf")]


def test_writing_to_a_tensor_never_reaches_the_file(tmp_path):
    prefix = tmp_path / "model.ckpt"
    write_bundle(prefix, {"w": np.ones(4, np.float32)})
    before = (tmp_path / "model.ckpt.data-00000-of-00001").read_bytes()
    read(prefix)["w"].fill_(7)
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
    with pytest.raises(UserError, match=r"data-00000-of-00001 is damaged: the checksum of the tensor b differs"):
        read(prefix)


def tensors_or_sentence(prefix):
    try:
        return {name: tensor.tolist() for name, tensor in read(prefix).items()}
    except UserError as error:
        return str(error)


def test_a_flipped_bit_anywhere_in_the_index_is_noticed(tmp_path):
    prefix, path = tmp_path / "model.ckpt", tmp_path / "model.ckpt.index"
    write_bundle(prefix, {f"layer_{i}": np.float32([i]) for i in range(9)})
    content, tensors = path.read_bytes(), tensors_or_sentence(prefix)
    n_unnoticed = 0
    for at in range(len(content)):
        changed = bytearray(content)
        changed[at] ^= 1 << at % 8
        path.write_bytes(changed)
        found = tensors_or_sentence(prefix)
        assert found == tensors or str(path) in found, at
        n_unnoticed += found == tensors
    # Nothing reads the meta-index block (8 bytes and its trailer of 5), its handle and what fills up the footer.
    assert n_unnoticed <= 8 + 5 + 40


def test_truncated_files_are_refused(tmp_path):
    prefix, index = tmp_path / "model.ckpt", tmp_path / "model.ckpt.index"
    write_bundle(prefix, {"first": np.zeros(3, np.float32), "last": np.zeros(5, np.float32)})
    data = tmp_path / "model.ckpt.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"cut short: it does not hold the tensor last \(20 bytes at 12\)"):
        read(prefix)
    data.unlink()
    with pytest.raises(UserError, match="is missing or cut short: it does not hold the tensor first"):
        read(prefix)
    content = index.read_bytes()
    for length in range(len(content)):
        index.write_bytes(content[:length])
        with pytest.raises(UserError, match=r"model.ckpt.index is not the index of a TensorFlow checkpoint, or is"):
            read(prefix)


def test_wrong_files_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"model\.ckpt\.index is missing"):
        read(tmp_path / "model.ckpt")
    (tmp_path / "model.ckpt.index").write_bytes(b"PK\3\4" * 100)
    with pytest.raises(UserError, match="does not end as such files end"):
        read(tmp_path / "model.ckpt")
    write_bundle(tmp_path / "model.ckpt", {}, header=field(1, 1) + field(2, 1))
    with pytest.raises(UserError, match="big-endian"):
        read(tmp_path / "model.ckpt")


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        (entry_message(7, (2,), 0, 0, 8, 0), "the tensor odd is of TensorFlow's type 7"),
        (entry_message(1, (2,), 0, 0, 8, 0, n_slices=2), "the tensor odd is in slices"),
        (entry_message(1, (2, 3), 0, 0, 8, 0), r"odd is said to have the shape \(2, 3\) and 8 bytes"),
        (entry_message(1, (2,), 5, 0, 8, 0), "data-00005-of-00001 is missing or cut short: .* the tensor odd"),
        (entry_message(1, (2,), 0, 2**40, 8, 0), "does not hold the tensor odd"),
        (entry_message(1, (2,), 0, 2**64 - 1, 8, 0), "does not hold the tensor odd"),
        (field(1, b"float"), "is not the index of a TensorFlow checkpoint"),
        (field(1, 1) + field(2, 7), "is not the index of a TensorFlow checkpoint"),
    ],
)
def test_impossible_tensors_are_refused(tmp_path, message, sentence):
    write_bundle(tmp_path / "model.ckpt", {"good": np.ones(3, np.float32)}, messages={"odd": message})
    with pytest.raises(UserError, match=sentence):
        read(tmp_path / "model.ckpt")


def test_kernels_are_transposed_and_optimizer_slots_dropped(tmp_path):
    kernel, table = random_array("float32", (3, 5)), np.ones((4, 3), np.float32)
    slots = ["global_step", "beta1_power", "beta2_power"]
    slots += [f"bert/pooler/dense/kernel/{slot}" for slot in ("adam_m", "adam_v", "Adam", "Adam_1", "LAMB", "LAMB_1")]
    tensors = {"bert/pooler/dense/kernel": kernel, "bert/embeddings/word_embeddings": table}
    write_bundle(tmp_path / "m", tensors | {name: np.int64(3) for name in slots})
    weights = read_google_weights(tmp_path / "m.index")
    assert weights.keys() == tensors.keys()
    assert (weights["bert/pooler/dense/kernel"].numpy() == kernel.T).all()
    assert (weights["bert/embeddings/word_embeddings"].numpy() == table).all()


def test_a_weight_whose_name_only_begins_as_a_slot_is_kept(tmp_path):
    names = {"bert/LAMB/bias", "bert/LAMB_12", "bert/myLAMB", "LAMB_1_power/kernel_scale"}
    write_bundle(tmp_path / "m", dict.fromkeys(names, np.ones(2, np.float32)))
    assert read_google_weights(tmp_path / "m.index").keys() == names
