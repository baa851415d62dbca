"""LDDL's Parquet shards, read as for training and checked by the rules of HDF5 shards.

They have no manifest. What one would say is taken from the vocabulary, the footers and LDDL's defaults, and the list of
files from `.num_samples.json`, which is a warning where it is wrong, since nothing depends on it.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from common.errors import Problems, UserError
from common.json_files import read_json
from common.words import counted
from data.loading.lddl.files import Footer, check_names, read_footers, row_groups
from data.loading.lddl.rows import MASKED_SHARE, Reading, RowError, read_blocks
from data.loading.lddl.words import Words
from data.masked_lm.instances import SpecialIds
from data.masked_lm.masking import MASKING_RULES
from data.verify import rows
from data.verify.report import WARNING, Findings, Offence
from data.verify.rows import BALANCE, FURTHER_SPECIAL, REPEATED, REPLACEMENT, UNIT, UNKNOWN, Expected
from tokenization import UNK, load_vocab

__all__ = ("CHECKS", "REPEATED", "UNIT", "checks_of")

COLUMNS, TEXT, COUNTS = "columns and types", "tokens, lengths and masks", "row counts"
CHECKS = (COLUMNS, TEXT, COUNTS, "masked_lm_positions", FURTHER_SPECIAL, REPLACEMENT, BALANCE, UNKNOWN, REPEATED)
COUNTS_NAME = ".num_samples.json"
NEVER = 2**62  # bits that no choice of masks has
LONGEST = 2048  # tokens of any BERT's row; a footer that says more is wrong


def checks_of(
    folder: Path, files: Sequence[Path], vocab_file: str | Path | None
) -> tuple[Callable[[Path], Findings], Callable[[Findings], None], list[str]]:
    """What checks a file, what checks the shares of several, and sentences that say what both rest on.

    Raises:
        UserError: the files' names contradict each other; the vocabulary is missing.
    """
    problems = Problems()
    check_names(files, problems)
    problems.raise_if_any()
    if vocab_file is None:
        what = f"The LDDL shards in {folder} hold tokens as text, whose ids a vocabulary says"
        raise UserError(what, "give --vocab_file the one that they were made with")
    vocabulary = load_vocab(vocab_file)
    footers = read_footers(files, LONGEST, Problems())  # what is wrong with them is told of each file
    has_masks = any(footer.has_masks for footer in footers)
    longest = min(LONGEST, max(footer.longest or rows.SHORTEST for footer in footers))
    rule = MASKING_RULES["tokens"]
    notes = [f"The longest row has {longest} tokens; each should be masked by {MASKED_SHARE:.0%}, as LDDL does."]
    if not has_masks:
        notes = [f"The longest row has {longest} tokens. There are no masks, so equal rows are no error."]
        rule = dataclasses.replace(rule, may_choose_fewer=True, comparable_bits=NEVER)
    counts, more_notes = _recorded_counts(folder, files)
    expected = Expected(SpecialIds.of(vocabulary), longest, longest, MASKED_SHARE, rule, vocabulary[UNK])
    reading = Reading(Words(vocabulary), str(vocab_file), longest, longest, has_masks, keeps_masks=True)
    check_file = functools.partial(check_shard, expected=expected, reading=reading, counts=counts)
    return check_file, functools.partial(rows.check_shares, expected=expected), notes + more_notes


def _recorded_counts(folder: Path, files: Sequence[Path]) -> tuple[Mapping[str, object], list[str]]:
    path = folder / COUNTS_NAME
    if not path.is_file():
        return {}, [f"There is no {COUNTS_NAME}; lost files cannot be noticed."]
    counts = read_json(path, "list of row counts", "move it away; training does not need it")
    missing = sorted(counts.keys() - {file.name for file in files})
    return counts, [f"{COUNTS_NAME} names {counted(len(missing), 'lost file')}, {missing[0]} first."] if missing else []


def check_shard(path: Path, expected: Expected, reading: Reading, counts: Mapping[str, object]) -> Findings:
    """Reads a whole shard up to the first row that is none; `counts` are the rows that files should have."""
    findings, problems = Findings(), Problems()
    (footer,) = read_footers([path], expected.seq_length, problems)
    if not problems.found and footer.has_masks is not reading.has_masks:
        problems.add(f"{path} {'has' if footer.has_masks else 'lacks'} masks, unlike other files of the folder")
    if problems.found:
        findings.offend(COLUMNS, Offence(problems.found[0].problem.replace(str(path), "it", 1)))
        return findings
    n_rows = sum(footer.n_rows)
    if path.name in counts and counts[path.name] != n_rows:
        what = f"it has {n_rows:,} rows, and {COUNTS_NAME} says {counts[path.name]}"
        findings.offend(COUNTS, Offence(what, status=WARNING))
    if not n_rows:
        findings.offend(COUNTS, Offence("it has no rows", status=WARNING))
        return findings
    try:
        rows.check_rows(_blocks(path, footer, reading), expected, findings)
    except RowError as error:
        findings.offend(TEXT, Offence(f"it {error.what}", 1, error.row))
    except UserError as error:
        findings.offend(COLUMNS, Offence(error.problems[0].problem.replace(str(path), "it", 1)))
    return findings


def _blocks(path: Path, footer: Footer, reading: Reading) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    for group in row_groups(0, footer):
        for first_row, token_rows in read_blocks(path, group, reading):
            yield first_row, token_rows[:].as_datasets()
