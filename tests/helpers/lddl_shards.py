"""LDDL's Parquet shards as its published writer leaves them, made of rows in lists, with none of the project's code."""

import io
import random

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [*(f"w{i}" for i in range(60)), *(f"##s{i}" for i in range(20))]
FIELDS = {"A": pa.string(), "B": pa.string(), "is_random_next": pa.bool_(), "num_tokens": pa.uint16()}
MASKED_FIELDS = {"masked_lm_positions": pa.binary(), "masked_lm_labels": pa.string()}


def write_vocabulary(path, words=WORDS):
    path.write_text("\n".join([*SPECIAL, *words]) + "\n", encoding="utf-8")
    return path


def npy(positions):
    """What np.save writes of uint16."""
    file = io.BytesIO()
    np.save(file, np.array(positions, dtype=np.uint16))
    return file.getvalue()


def make_row(rng, longest, masked=True, shortest=5):
    """A row as a dictionary of its cells; a share of 15 % of its tokens is masked, however long it is."""
    length = longest if rng.random() < 0.5 else rng.randint(shortest, longest)
    n_first = rng.randint(1, length - 4)
    tokens = ["[CLS]", *rng.choices(WORDS, k=n_first), "[SEP]", *rng.choices(WORDS, k=length - n_first - 3), "[SEP]"]
    cells = {"is_random_next": rng.random() < 0.5, "num_tokens": length}
    if masked:
        candidates = [i for i in range(1, length - 1) if i != n_first + 1]
        positions = sorted(rng.sample(candidates, max(1, round(0.15 * length))))
        cells["masked_lm_positions"] = npy(positions)
        cells["masked_lm_labels"] = " ".join(tokens[i] for i in positions)
        for i in positions:
            tokens[i] = rng.choices(["[MASK]", tokens[i], rng.choice(WORDS)], [8, 1, 1])[0]
    return {"A": " ".join(tokens[1 : n_first + 1]), "B": " ".join(tokens[n_first + 2 : -1]), **cells}


def write_rows(path, rows, types=None, row_group_size=None):
    """A shard of these rows; `types` changes or, with None, leaves out columns."""
    fields = FIELDS | (MASKED_FIELDS if rows and "masked_lm_positions" in rows[0] else {})
    if "_" in path.suffix:
        fields = fields | {"bin_id": pa.int64()}
        rows = [{**row, "bin_id": int(path.suffix.partition("_")[2])} for row in rows]
    fields = {name: kind for name, kind in {**fields, **(types or {})}.items() if kind is not None}
    columns = {name: pa.array([row[name] for row in rows], kind) for name, kind in fields.items()}
    pq.write_table(pa.table(columns), path, row_group_size=row_group_size)


def write_folder(folder, rows_per_file=(30, 25), longest=16, masked=True, bin_size=None, seed=0):
    """A balanced folder; with bins, of each as many files, whose rows have their lengths. Returns all rows by file."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, written = random.Random(seed), {}
    for i, n_rows in enumerate(rows_per_file):
        rows = [make_row(rng, longest, masked) for _ in range(n_rows)]
        if bin_size is None:
            written[folder / f"shard-{i}.parquet"] = rows
            continue
        for row in rows:
            which = min((row["num_tokens"] - 1) // bin_size, longest // bin_size - 1)
            written.setdefault(folder / f"shard-{i}.parquet_{which}", []).append(row)
    for path, rows in written.items():
        write_rows(path, rows)
    (folder / ".num_samples.json").write_text("{}", encoding="utf-8")
    return written


def read_naively(row, vocabulary):
    """Ids, segments, (position, label) pairs and next-sentence label of a row, as LDDL's own loader takes them."""
    a, b = row["A"].split(), row["B"].split()
    tokens = ["[CLS]", *a, "[SEP]", *b, "[SEP]"]
    masked = ()
    if "masked_lm_positions" in row:
        positions = np.load(io.BytesIO(row["masked_lm_positions"])).tolist()
        labels = [vocabulary[token] for token in row["masked_lm_labels"].split()]
        masked = tuple(zip(positions, labels, strict=True))
    segments = [0] * (len(a) + 2) + [1] * (len(b) + 1)
    return tuple(vocabulary[token] for token in tokens), tuple(segments), masked, int(row["is_random_next"])


def without_masks(row):
    """The row as LDDL writes it where it does not mask."""
    n_first = len(row["A"].split())
    tokens = ["[CLS]", *row["A"].split(), "[SEP]", *row["B"].split(), "[SEP]"]
    positions = np.load(io.BytesIO(row["masked_lm_positions"]))
    for position, token in zip(positions, row["masked_lm_labels"].split(), strict=True):
        tokens[position] = token
    texts = {"A": " ".join(tokens[1 : n_first + 1]), "B": " ".join(tokens[n_first + 2 : -1])}
    return {**texts, "is_random_next": row["is_random_next"], "num_tokens": row["num_tokens"]}


def vocabulary_of(path):
    """Each token's id."""
    return {token: i for i, token in enumerate(path.read_text(encoding="utf-8").split())}


def write_hdf5(path, samples, seq_length, predictions):
    """Rows as `read_naively` gives them, in the layout of NVIDIA's HDF5 shards."""
    n_rows = len(samples)
    values = {name: np.zeros((n_rows, seq_length), np.int32) for name in ("input_ids", "input_mask", "segment_ids")}
    values |= {name: np.zeros((n_rows, predictions), np.int32) for name in ("masked_lm_positions", "masked_lm_ids")}
    for i, (ids, segments, masked, _) in enumerate(samples):
        values["input_ids"][i, : len(ids)], values["input_mask"][i, : len(ids)] = ids, 1
        values["segment_ids"][i, : len(ids)] = segments
        values["masked_lm_positions"][i, : len(masked)] = [position for position, _ in masked]
        values["masked_lm_ids"][i, : len(masked)] = [label for _, label in masked]
    values["next_sentence_labels"] = np.array([label for *_, label in samples])
    with h5py.File(path, "w") as file:
        for name, array in values.items():
            file[name] = array
