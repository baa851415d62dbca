"""A folder of NVIDIA's shards for MLPerf as parts that are read one after the other: each file is one.

A packed row holds up to three samples that NVIDIA feeds together. Flat batches have no padding to save, so here each
sample counts as one, and a position in the stream means the same as with any other shards.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from common.errors import Problems, UserError
from common.words import and_others
from data.loading.masking import DynamicMasking
from data.loading.shard_files import PACKED, datasets_of, open_shard
from data.loading.token_rows import TokenRows
from data.loading.varlen.heap import REMAKE_VARLEN
from data.loading.varlen.rows import Limits, check_same_rows, ragged_entries, read_lengths, read_rows

FILES_AT_ONCE = 8
ROWS_CHECKED = 4096  # of a file, for whether its masks are of this vocabulary


class VarlenShards:
    """All samples of some files; adds to `problems` what lengths and the first file's rows say is wrong.

    Args:
        wanted: the datasets of all files, VARLEN or PACKED.
        n_predictions: how many masked positions a sample may have at most is the last of these.
        vocab_size: None: not known.
        masking: how rows are masked anew, where they are.
    """

    def __init__(
        self,
        files: Sequence[Path],
        wanted: Mapping[str, int],
        max_seq_length: int,
        n_predictions: range,
        vocab_size: int | None,
        masking: DynamicMasking | None,
        problems: Problems,
    ) -> None:
        self.files, self.wanted, self.masking = list(files), wanted, masking
        self.limits = Limits(max_seq_length, n_predictions[-1], 2**31 if vocab_size is None else vocab_size)
        n_before = len(problems.found)
        self.rows_per_file = self.rows_per_part = self._count(problems)
        if len(problems.found) == n_before and self.rows_per_file.any():
            with problems.collect():
                self.read(int((self.rows_per_file > 0).argmax()), np.arange(0))

    def read(self, part: int, rows: np.ndarray) -> tuple[TokenRows, np.ndarray]:
        """All samples of a file, and `rows`. Raises UserError if it cannot be read or a row is not as it should be."""
        samples = read_rows(self.files[part], self.wanted, self.limits)
        if self.masking:
            self.masking.check(samples[:ROWS_CHECKED], self.files[part])
        return samples, rows

    def lengths(self, part: int) -> np.ndarray:
        """(n,) int64: the tokens of a file's samples."""
        found = read_lengths(self.files[part], self.wanted)
        if len(found) != self.rows_per_file[part]:
            self.read(part, np.arange(0))  # raises UserError with the row
        return found

    def _count(self, problems: Problems) -> np.ndarray:
        """(files,) int64: the samples of each; adds to `problems`, alike ones as one."""
        complaints: dict[tuple[str, str], list[Path]] = defaultdict(list)
        with ThreadPoolExecutor(FILES_AT_ONCE) as threads:  # on a shared file system each file is waited for
            found = list(threads.map(self._look_at, self.files))
        for file, (_, wrong) in zip(self.files, found, strict=True):
            for complaint in wrong:
                complaints[complaint].append(file)
        for (what, remedy), where in complaints.items():
            problems.add(f"{where[0]}{and_others(len(where))} {what}", remedy)
        return np.array([n_samples for n_samples, _ in found], dtype=np.int64)

    def _look_at(self, file: Path) -> tuple[int, list[tuple[str, str]]]:
        """How many samples a file has, and pairs of what is wrong and its remedy, as halves of a sentence."""
        try:
            with open_shard(file, self.wanted) as datasets:
                check_same_rows(file, datasets)
                if self.wanted is PACKED:  # how long its samples are is in the heap, where it takes long to look
                    (entries,) = ragged_entries(file, datasets, ["next_sentence_labels"]).values()
                    return int(entries["length"].sum(dtype=np.int64)), []
                entries = ragged_entries(file, datasets, ["input_ids", "masked_lm_positions"])
                return len(datasets["input_ids"]), list(self._too_long(entries))
        except UserError as error:
            if datasets_of(file) is not self.wanted:
                what = f"holds rows in another format than {self.files[0].name}"
                return 0, [(what, "keep fixed, variable and packed rows in folders of their own")]
            return 0, [(each.problem.removeprefix(f"{file} "), each.remedy) for each in error.problems]
        except Exception as error:  # there is hardly one that no damaged file makes h5py raise
            return 0, [(f"cannot be read as HDF5 ({error})", REMAKE_VARLEN)]

    def _too_long(self, entries: Mapping[str, np.ndarray]) -> Iterator[tuple[str, str]]:
        for name, most, unit, flag in (
            ("input_ids", self.limits.max_seq_length, "tokens", "--max_seq_length"),
            ("masked_lm_positions", self.limits.max_predictions_per_seq, "predictions", "--max_predictions_per_seq"),
        ):
            if (longest := int(entries[name]["length"].max(initial=0))) > most:
                what = f"holds sequences of up to {longest} {unit}, more than the {flag} {most} asked for"
                yield what, f"give {flag} {longest}, or another folder"
