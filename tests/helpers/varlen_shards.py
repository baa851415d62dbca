"""The formats of NVIDIA's shards for MLPerf, written from their description, out of plain rows.

A row is (ids, segments, ((position, label), ...), label of the next sentence).
"""

import random

import h5py
import numpy as np

CLS, SEP, MASK = 1, 2, 3


def make_row(rng, longest, most_masked, vocab_size=40, shortest=5):
    length = longest if rng.random() < 0.2 else rng.randint(shortest, longest)
    n_first = rng.randint(3, length - 2)
    ids = [CLS, *(rng.randint(5, vocab_size - 1) for _ in range(length - 2)), SEP]
    ids[n_first - 1] = SEP
    candidates = [i for i in range(1, length - 1) if i != n_first - 1]
    chosen = sorted(rng.sample(candidates, min(len(candidates), rng.randint(1, most_masked))))
    masked = tuple((i, ids[i]) for i in chosen)
    for i in chosen:
        ids[i] = MASK
    return tuple(ids), (0,) * n_first + (1,) * (length - n_first), masked, rng.randint(0, 1)


def make_rows(n_rows, longest, most_masked, seed=0, **shape):
    rng = random.Random(seed)
    return [make_row(rng, longest, most_masked, **shape) for _ in range(n_rows)]


def packs_of(rows, rng, longest):
    """The rows in their order, one to three in a pack of at most `longest` tokens."""
    packs, left = [], list(rows)
    while left:
        pack, most = [left.pop(0)], rng.randint(1, 3)
        while left and len(pack) < most and sum(len(row[0]) for row in [*pack, left[0]]) <= longest:
            pack.append(left.pop(0))
        packs.append(pack)
    return packs


def write_ragged(file, name, rows, kind, **storage):
    values = file.create_dataset(name, (len(rows),), h5py.vlen_dtype(np.dtype(kind)), **storage)
    for i, row in enumerate(rows):
        values[i] = np.array(row, kind)


def write_varlen(path, rows, **storage):
    """As convert_fixed2variable leaves them."""
    with h5py.File(path, "w") as file:
        write_ragged(file, "input_ids", [ids for ids, *_ in rows], "int16", **storage)
        write_ragged(file, "segment_ids", [segments for _, segments, *_ in rows], "int8", **storage)
        write_ragged(file, "masked_lm_positions", [[i for i, _ in row[2]] for row in rows], "int16", **storage)
        write_ragged(file, "masked_lm_ids", [[label for _, label in row[2]] for row in rows], "int16", **storage)
        file.create_dataset("next_sentence_labels", data=np.array([row[3] for row in rows], "int8"))


def write_packed(path, packs, **storage):
    """Positions count in the joined row, lengths and labels are one for each sample."""
    joined = {name: [] for name in ("input_ids", "segment_ids", "masked_lm_positions", "masked_lm_ids")}
    of_samples = {name: [] for name in ("packed_input_len", "packed_masked_lm_len", "next_sentence_labels")}
    for pack in packs:
        ids, segments, positions, labels = [], [], [], []
        for row in pack:
            positions += [len(ids) + i for i, _ in row[2]]
            labels += [label for _, label in row[2]]
            ids += row[0]
            segments += row[1]
        for name, values in zip(joined, (ids, segments, positions, labels), strict=True):
            joined[name].append(values)
        of_samples["packed_input_len"].append([len(row[0]) for row in pack])
        of_samples["packed_masked_lm_len"].append([len(row[2]) for row in pack])
        of_samples["next_sentence_labels"].append([row[3] for row in pack])
    with h5py.File(path, "w") as file:
        for name, values in {**joined, **of_samples}.items():
            kind = "int8" if name in ("segment_ids", "next_sentence_labels") else "int16"
            write_ragged(file, name, values, kind, **storage)


def write_fixed(path, rows, seq_length, predictions):
    """Padded, as the published shards are."""
    widths = {"input_ids": seq_length, "input_mask": seq_length, "segment_ids": seq_length}
    widths |= {"masked_lm_positions": predictions, "masked_lm_ids": predictions}
    values = {name: np.zeros((len(rows), width), np.int16) for name, width in widths.items()}
    for i, (ids, segments, masked, _) in enumerate(rows):
        values["input_ids"][i, : len(ids)], values["input_mask"][i, : len(ids)] = ids, 1
        values["segment_ids"][i, : len(ids)] = segments
        values["masked_lm_positions"][i, : len(masked)] = [position for position, _ in masked]
        values["masked_lm_ids"][i, : len(masked)] = [label for _, label in masked]
    with h5py.File(path, "w") as file:
        for name, array in values.items():
            file[name] = array
        file["next_sentence_labels"] = np.array([row[3] for row in rows], np.int8)


def write_folders(folder, rows_per_file, longest, most_masked, seed=0, **shape):
    """The same rows in `fixed`, `varlen` and `packed`, under NVIDIA's names; returns all rows."""
    rng, all_rows = random.Random(seed), []
    for kind in ("fixed", "varlen", "packed"):
        (folder / kind).mkdir(parents=True)
    n_files = len(rows_per_file)
    for number, n_rows in enumerate(rows_per_file):
        rows = make_rows(n_rows, longest, most_masked, seed=rng.random(), **shape)
        write_fixed(folder / "fixed" / f"part-{number:05}-of-{n_files:05}.hdf5", rows, longest, most_masked)
        write_varlen(folder / "varlen" / f"part_{number:05}_of_{n_files:05}.hdf", rows)
        write_packed(folder / "packed" / f"part_{number:05}", packs_of(rows, rng, longest))
        all_rows += rows
    for name in ("shard_list_00000.lst", "shard_indices_00000.lst"):
        (folder / "packed" / name).write_text("[]")
        (folder / "varlen" / name).write_text("[]")
    return all_rows
