"""HDF5 shards with the published settings, for measurements of making them."""

from collections.abc import Sequence
from pathlib import Path

from data.create_pretraining_data import create_shards
from data.masked_lm.instances import InstanceOptions

PUBLISHED_LENGTHS = ((128, 20), (512, 80))  # tokens, and masked ones at most


def make_shards(
    text: Path,
    folder: Path,
    vocab_file: str,
    lengths: Sequence[tuple[int, int]] = PUBLISHED_LENGTHS,
    masking: str = "tokens",
    compression: str = "gzip",
) -> list[Path]:
    """The files of a text shard, one for each (sequence length, predictions)."""
    outputs = [
        (InstanceOptions(*length, 0.15, 0.1, 5, masking), folder / f"{length[0]}_{text.stem}.hdf5")
        for length in lengths
    ]
    create_shards([text], outputs, vocab_file, True, 12345, compression)
    return [path for _, path in outputs]
