"""The Parquet shards of a folder that NVIDIA's LDDL made, and what their footers tell before any row is read.

LDDL writes a bin's number behind the ending (`shard-0.parquet_3`), so that looking for `*.parquet` would find none of
them. Row counts are the footers' and not those of `.num_samples.json`, which is older than the files where somebody
moved some. pyarrow is imported in functions only, as it takes a tenth of a second.
"""

import contextlib
import itertools
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import Problems, UserError
from common.json_files import regular
from common.words import and_others, counted
from data.loading.shard_files import shard_files

if TYPE_CHECKING:
    import pyarrow.parquet

REMAKE_LDDL = "get it again, or make it again with LDDL"
# Before and after LDDL balances; with bins, the bin's number is the last.
NAME = re.compile(r"(part\.|shard-)(\d+)\.parquet(?:_(\d+))?")
A, B, IS_RANDOM, N_TOKENS = "A", "B", "is_random_next", "num_tokens"
POSITIONS, LABELS = "masked_lm_positions", "masked_lm_labels"
TEXT, BYTES = ("string", "large_string"), ("binary", "large_binary")
WHOLE_NUMBERS = ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64")
UNMASKED = ((A, TEXT), (B, TEXT), (IS_RANDOM, ("bool",)), (N_TOKENS, WHOLE_NUMBERS))
MASKED = ((POSITIONS, BYTES), (LABELS, TEXT))
# A row of five tokens has 12 bytes of text at the least, and no real text is packed to a two-hundredth.
MAX_ROWS_PER_BYTE, HARMLESS_ROWS = 200 / 12, 2**20
FILES_AT_ONCE = 16


@dataclass(frozen=True)
class RowGroup:
    """What is read at once: a part of a file, in practice the whole of it."""

    file: int  # index of its file
    index: int  # among the file's row groups
    first_row: int  # in the file
    n_rows: int


@dataclass(frozen=True)
class Footer:
    """What a shard says of itself."""

    n_rows: tuple[int, ...]  # of each row group
    has_masks: bool
    longest: int | None  # tokens of its longest row; None: it does not say


def lddl_files(folder: Path) -> list[Path]:
    """The Parquet files of a folder, hidden ones and Dask's metadata left out, in the order of their numbers."""
    files = [path for path in folder.glob("[!._]*") if path.suffix.lower().startswith(".parquet")]
    return sorted(files, key=lambda path: ([int(digits) for digits in re.findall(r"\d+", path.name)], path.name))


def bin_of(file: Path) -> int | None:
    """The bin in a shard's name."""
    found = NAME.fullmatch(file.name)
    return int(found[3]) if found and found[3] is not None else None


def check_names(files: Sequence[Path], problems: Problems) -> None:
    """Adds to `problems` what the names of a folder's Parquet files say against training on all of them."""
    folder, names = files[0].parent, {file: NAME.fullmatch(file.name) for file in files}
    if strangers := [file for file, found in names.items() if not found]:
        problems.add(
            f"{strangers[0]} has not the name of an LDDL shard, shard-N.parquet or part.N.parquet, with _BIN behind it "
            f"or without ({len(strangers)} of {len(files)} files)",
            "rename it, or move it away; text in Parquet is no training data yet",
        )
    found = [each for each in names.values() if each]
    if len({each[1] for each in found}) == 2:
        problems.add(
            f"{folder} holds both part.* and shard-*, as an unfinished balance_dask_output leaves them",
            "run that to its end, or move one kind away",
        )
    if len({each[3] is None for each in found}) == 2:
        problems.add(f"{folder} holds shards with a bin's number and others without", "move one kind away")
    problems.check(not shard_files(folder), f"{folder} holds .hdf5 files and Parquet shards", "move one kind away")


@contextlib.contextmanager
def open_parquet(path: Path) -> "Iterator[pyarrow.parquet.ParquetFile]":
    """Context of the file, whose footer has been read.

    Raises:
        UserError: it cannot be read, here or in the context; the problem begins with its path.
    """
    import pyarrow.parquet as pq

    try:
        # Buffered, or a file with one row group would come into memory as a whole.
        with pq.ParquetFile(os.fspath(regular(path)), buffer_size=2**20, pre_buffer=False) as file:
            yield file
    except UserError:
        raise
    except Exception as error:  # there is hardly one that no damaged file makes pyarrow raise
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0].rstrip(".")
        raise UserError(f"{path} cannot be read as Parquet ({reason})", REMAKE_LDDL) from error


def read_footers(files: Sequence[Path], max_seq_length: int, problems: Problems) -> list[Footer]:
    """Each file's footer; adds what is wrong with them to `problems`, alike ones as one."""
    footers: list[Footer] = []
    complaints: dict[tuple[str, str], list[Path]] = defaultdict(list)
    # Phase 2 has 32,768 files, and on a shared file system each of them is waited for.
    with ThreadPoolExecutor(FILES_AT_ONCE) as threads:
        found = list(threads.map(_read_footer, files))
    for file, (footer, wrong) in zip(files, found, strict=True):
        footers.append(footer)
        for complaint in wrong:
            complaints[complaint].append(file)
    for (what, remedy), where in complaints.items():
        problems.add(f"{where[0]}{and_others(len(where))} {what}", remedy)
    if complaints:
        return footers
    long = [i for i, footer in enumerate(footers) if footer.longest and footer.longest > max_seq_length]
    if long:
        longest = max(footers[i].longest for i in long)
        problems.add(
            f"{files[long[0]]}{and_others(len(long))} holds rows of more tokens than --max_seq_length {max_seq_length} "
            f"(the longest have {longest})",
            f"give --max_seq_length {longest}, or another folder",
        )
    masked, unmasked = ([i for i, footer in enumerate(footers) if footer.has_masks is which] for which in (True, False))
    if masked and unmasked:
        problems.add(
            f"{files[masked[0]]} holds masked rows and {files[unmasked[0]]} rows without masks "
            f"({counted(len(masked), 'file')} and {counted(len(unmasked), 'file')})",
            "keep each kind in a folder of its own",
        )
    return footers


def row_groups(file: int, footer: Footer) -> list[RowGroup]:
    """Those with rows of a file, by its index."""
    first_rows = itertools.accumulate(footer.n_rows, initial=0)
    numbered = enumerate(zip(first_rows, footer.n_rows, strict=False))
    return [RowGroup(file, index, first_row, n_rows) for index, (first_row, n_rows) in numbered if n_rows]


def lacks_masks(folder: Path) -> bool:
    """Whether LDDL's shards lie there without masks, as the first of them says; what cannot be read does not."""
    files = lddl_files(folder)
    if not files:
        return False
    footer, wrong = _read_footer(files[0])
    return not wrong and not footer.has_masks


def _read_footer(file: Path) -> tuple[Footer, list[tuple[str, str]]]:
    """With what is wrong, as pairs of the end of a sentence that starts with the file's name and a remedy."""
    try:
        return _footer_of(file)
    except UserError as error:
        return Footer((), False, None), [
            (each.problem.removeprefix(f"{file} "), each.remedy) for each in error.problems
        ]


def _footer_of(file: Path) -> tuple[Footer, list[tuple[str, str]]]:
    with open_parquet(file) as opened:
        metadata, types = opened.metadata, {field.name: str(field.type) for field in opened.schema_arrow}
        n_rows = tuple(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))
        wrong = list(_wrong_columns(types))
        too_many = max(HARMLESS_ROWS, MAX_ROWS_PER_BYTE * file.stat().st_size)
        if sum(n_rows) > too_many or min(n_rows, default=0) < 0 or sum(n_rows) != metadata.num_rows:
            wrong.append(("declares other numbers of rows than a file of its size holds", REMAKE_LDDL))
        return Footer(n_rows, POSITIONS in types, None if wrong else _longest(opened)), wrong


def _wrong_columns(types: dict[str, str]) -> Iterator[tuple[str, str]]:
    wanted = UNMASKED + (MASKED if types.keys() & {POSITIONS, LABELS} else ())
    if missing := [name for name, _ in wanted if name not in types]:
        yield f"lacks {', '.join(missing)} of an LDDL shard (it has {', '.join(types) or 'no columns'})", REMAKE_LDDL
    for name, allowed in wanted:
        if name in types and types[name] not in allowed:
            yield f"has a column {name} of the type {types[name]}, not {allowed[0]}", REMAKE_LDDL


def _longest(opened: "pyarrow.parquet.ParquetFile") -> int | None:
    """The largest number of tokens that a file says its rows have.

    Read from the rows: asked for the statistics of a damaged footer, pyarrow can end the process.
    """
    from pyarrow import compute

    return compute.max(opened.read(columns=[N_TOKENS], use_threads=False).column(0)).as_py()
