"""A folder of LDDL shards as parts that are read one after the other, in which rows of all bins lie together.

LDDL keeps rows of like lengths in files of their own, and its loader makes each batch of one such bin, so as to pad
little. Flat batches have no padding, so here a part is a file of each bin, and batches are as mixed as the corpus.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.errors import Problems
from data.loading.lddl.files import RowGroup, bin_of, check_names, lddl_files, read_footers, row_groups
from data.loading.lddl.rows import Reading, read_first_rows, read_lengths, read_rows
from data.loading.lddl.words import Words
from data.loading.token_rows import TokenRows
from tokenization import load_vocab


class LddlShards:
    """All rows of a folder; adds to `problems` what names, footers and the first rows of each bin say is wrong.

    Args:
        vocab_file: the vocabulary that the shards were made with.
        max_seq_length: S, the most tokens of a row.
        n_predictions: how many masked positions a row may have; from 0 on, the shards may be without masks.
        keeps_masks: else the tokens that were there are put back.

    Raises:
        UserError: pyarrow is not installed.
    """

    def __init__(
        self,
        folder: Path,
        vocab_file: str | None,
        max_seq_length: int,
        n_predictions: range,
        keeps_masks: bool,
        problems: Problems,
    ) -> None:
        self.files = lddl_files(folder)
        n_before = len(problems.found)
        check_names(self.files, problems)
        footers = read_footers(self.files, max_seq_length, problems)
        problems.check(
            vocab_file,
            f"The LDDL shards in {folder} hold tokens as text, whose ids a vocabulary says",
            "give --vocab_file the one that they were made with",
        )
        self.rows_per_file = np.array([sum(footer.n_rows) for footer in footers], dtype=np.int64)
        has_masks = footers[0].has_masks
        problems.check(
            has_masks or 0 in n_predictions or len(problems.found) > n_before,
            f"The LDDL shards in {folder} hold rows without masks, and --masking is static",
            "add --masking dynamic",
        )
        if len(problems.found) > n_before:
            return
        groups = [group for file, footer in enumerate(footers) for group in row_groups(file, footer)]
        bins = defaultdict(list)
        for group in groups:
            bins[bin_of(self.files[group.file])].append(group)
        self.parts = spread(list(bins.values()))
        self.rows_per_part = np.array([sum(group.n_rows for group in part) for part in self.parts], dtype=np.int64)
        with problems.collect():
            words = Words(load_vocab(vocab_file)), vocab_file
            self.reading = Reading(*words, max_seq_length, n_predictions[-1], has_masks, keeps_masks)
            for first, *_ in bins.values():
                with problems.collect():
                    read_first_rows(self.files[first.file], first, self.reading)

    def read(self, part: int, rows: np.ndarray) -> tuple[TokenRows, np.ndarray]:
        """Some rows of a part, and the places in them of `rows`. What no rank of this process needs is not looked up.

        Raises:
            UserError: it cannot be read, or a row is not what it should be.
        """
        wanted, first, found = np.sort(rows), 0, []
        for group in self.parts[part]:
            own = wanted[np.searchsorted(wanted, first) : np.searchsorted(wanted, first + group.n_rows)]
            if len(own):
                found.append(read_rows(self.files[group.file], group, self.reading, own - first))
            first += group.n_rows
        return TokenRows.concatenate(found), np.searchsorted(wanted, rows)

    def lengths(self, part: int) -> np.ndarray:
        """(n,) int64: the tokens of a part's rows by `num_tokens`, which is checked where they are read."""
        return np.concatenate([read_lengths(self.files[group.file], group) for group in self.parts[part]])


def spread(bins: Sequence[Sequence[RowGroup]]) -> list[list[RowGroup]]:
    """As many parts as the largest bin has row groups; those of each bin go to parts at even distances."""
    parts: list[list[RowGroup]] = [[] for _ in range(max(map(len, bins), default=0))]
    for groups in bins:
        for i, group in enumerate(groups):
            parts[i * len(parts) // len(groups)].append(group)
    return parts
