"""NVIDIA's rows without padding and packed ones, read as for training and checked by the rules of padded shards."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from common.errors import UserError
from data.loading.shard_files import datasets_of
from data.loading.token_rows import TokenRows
from data.loading.varlen.rows import Limits, read_rows
from data.verify import rows
from data.verify.report import Findings, Offence
from data.verify.rows import STRUCTURE, TOKENS_PER_BLOCK, Expected

ANY = 2**15  # tokens or masked positions: more than NVIDIA's types can say


def longest_in(files: Sequence[Path]) -> tuple[int, int]:
    """The most tokens and masked positions of a sample in the first file that can be read; UserError if none can."""
    for file in files:
        try:
            samples = read_rows(file, datasets_of(file), Limits(ANY, ANY, 2**31))
        except UserError:  # told where the file is verified
            continue
        return int(samples.lengths.max(initial=rows.SHORTEST)), int(samples.n_masked.max(initial=1))
    raise UserError(f"None of the {len(files)} files in {files[0].parent} can be read", "get them again")


def check_shard(path: Path, expected: Expected) -> Findings:
    """Reads a whole shard, up to the first row that is none. A sample of a packed row counts as a row."""
    findings = Findings()
    limits = Limits(expected.seq_length, expected.n_positions, expected.special.vocab_size)
    try:
        samples = read_rows(path, datasets_of(path), limits)
    except UserError as error:
        findings.offend(STRUCTURE, Offence(error.problems[0].problem.replace(str(path), "it", 1)))
        return findings
    if not len(samples):
        findings.offend(STRUCTURE, Offence("it has no rows"))
        return findings
    rows.check_rows(_blocks(samples, max(1, TOKENS_PER_BLOCK // expected.seq_length)), expected, findings)
    return findings


def _blocks(samples: TokenRows, step: int) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    for start in range(0, len(samples), step):
        yield start, samples[start : start + step].as_datasets()
