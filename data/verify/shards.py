"""Proof that a folder of HDF5 shards is what it should be: every row of every file, ours or NVIDIA's.

A shard that is damaged, cut short, made with another vocabulary or copied twice trains without complaint and costs
accuracy. So all of it is read, shards side by side: against the manifest where there is one, against the published
rules always (rows.py), and then what only many rows can tell: how often a masked word became [MASK], how many
next sentences are random, whether rows or shards repeat. NVIDIA's shards have no manifest; what it would say is then
taken from --vocab_file, the folder's name and the rows themselves, and the report says so.
"""

import dataclasses
import functools
import itertools
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from common.errors import UserError
from common.workers import Workers
from data.artifacts.manifest import FILE_NAME, FileRecord, Manifest
from data.masked_lm.instances import SpecialIds
from data.masked_lm.masking import AS_MASK, UNCHANGED, rule_in
from data.verify.report import (
    FAILED,
    WARNING,
    Checks,
    Repetitions,
    Report,
    manifest_of,
    name_of,
    offence_of_bytes,
    split_of,
)
from data.verify.rows import LARGEST_ID, Expected, ShardFindings, check_shard, first_rows, widths_of
from file_utils import sha256_of
from tokenization import CLS, MASK, SEP, load_vocab

BY_MANIFEST = ("files", "size and hash", "row counts", "made from these text shards")
BY_FILE = ("readable", "datasets", "types", "shapes")
BY_TOKEN = ("input_mask", "row length", "padding", "input_ids in vocabulary", "segment_ids", "next_sentence_labels")
BY_SPECIAL_TOKEN = ("[CLS] first", "[SEP] last", "[SEP] between segments", "no other special token", "[SEP] not masked")
BY_POSITION = ("masked positions zero-padded", "masked positions inside", "masked positions ascending", "number masked")
BY_MASKED_ID = ("masked_lm_ids in vocabulary", "masked_lm_ids zero-padded")
BY_COUNT = ("80/10/10 replacement", "next-sentence balance", "rows repeated", "identical shards")
BY_ROW = BY_TOKEN + BY_SPECIAL_TOKEN + BY_POSITION + BY_MASKED_ID
CHECKS = ("finished", "vocabulary") + BY_MANIFEST + BY_FILE + BY_ROW + BY_COUNT  # noqa: RUF005

DEFAULT_MASKED_LM_PROB = 0.15
STANDARD_ERRORS = 6  # by which a share may be off by chance: less than once in 10 ** 8 shards
# Half of the next sentences are random, and all those after a single sentence. So fewer than half cannot be, but with
# very few documents; more than the upper bound only where most sentences fill a row alone, which is worth a look, and
# nearly all means that the label says nothing.
RANDOM_NEXT_BOUNDS = (0.45, 0.65)
RANDOM_NEXT_LIMIT = 0.95
# Texts about BERT hold [SEP] and [MASK] as words, and tokenizers leave them whole.
FURTHER_SPECIAL_SHARE = 1e-3
HISTOGRAM_BINS = 8
TOGETHER = "together with the other files of its kind, "
NO_SHARDS = "{file} is no pre-training shard, nor is any other file beside it; give a folder of them."


def verify(folder: Path, pool: Workers, *, vocab_file: str | Path | None = None) -> Report:
    """Checks all shards in `folder`.

    Args:
        vocab_file: the vocabulary they were made with; by default what the manifest says of it.

    Raises:
        UserError: there are no shards, none can be read, or the vocabulary or the manifest cannot.
    """
    folder = Path(folder)
    files = sorted(file for file in folder.glob("*.hdf5") if not file.name.startswith("."))
    if not files:
        raise UserError(
            f"There is no .hdf5 file in {folder}", "make them with data/bertPrep.py, or give another folder"
        )
    checks = Checks(CHECKS)
    manifest = manifest_of(folder, checks, files, BY_MANIFEST)
    if manifest:
        _check_source(folder, manifest, checks)
    expected, notes = _expected(folder, files, manifest, vocab_file, checks)
    repetitions = Repetitions()
    records = [manifest.outputs.get(file.name) if manifest else None for file in files]
    check_file = functools.partial(_verify_file, expected=expected)
    results = pool.map(check_file, zip(files, records, strict=True), "verify", name_of)
    findings_of_splits: dict[str, _Split] = {}
    seen: dict[str, str] = {}
    for number, (file, findings) in enumerate(
        zip(files, tqdm(results, total=len(files), unit="shard", desc="verify"), strict=True)
    ):
        name = file.name
        _note_offences(checks, name, findings)
        _check_replacement(checks, name, findings, expected)
        _check_balance(checks, name, findings)
        findings_of_splits.setdefault(split_of(name), _Split(expected.seq_length)).add(name, findings)
        twin = seen.setdefault(findings.content_hash, name) if findings.content_hash else name
        if twin != name:
            checks.offend("identical shards", name, f"it has the rows of {twin}", findings.n_rows)
        else:
            repetitions.add(findings.row_hashes, number)
    for split in findings_of_splits.values():
        # More rows show smaller faults; but what a single shard shows is not told twice.
        if checks.is_ok("80/10/10 replacement"):
            _check_replacement(checks, split.most_deviating, split.total, expected, TOGETHER)
        if checks.is_ok("next-sentence balance"):
            _check_balance(checks, split.most_deviating, split.total, TOGETHER)
    for a, b, n_rows in repetitions.between_files():
        checks.offend("rows repeated", files[b].name, f"{n_rows:,} of its rows are in {files[a].name} too", n_rows)
    if repetitions.share < 1:
        notes.append(f"Of the rows of different files, {repetitions.share:.2%} were compared, chosen by their hashes.")
    statistics = {name: split.statistics() for name, split in sorted(findings_of_splits.items(), reverse=True)}
    return Report(str(folder), checks.as_list(), statistics, notes)


def _check_source(folder: Path, manifest: Manifest, checks: Checks) -> None:
    """Whether the text shards that lie there now are those that the HDF5 files were made from."""
    check = "made from these text shards"
    working_dir = folder.absolute().parent.parent
    texts = {working_dir / name: record for name, record in manifest.inputs.items()}
    recorded = {
        parent: Manifest.read(parent / FILE_NAME)
        for parent in {path.parent for path in texts}
        if (parent / FILE_NAME).is_file()
    }
    if not recorded:
        checks.skip([check], "the text shards are not there")
    for path, record in texts.items():
        now = recorded[path.parent].outputs.get(path.name) if path.parent in recorded else record
        if now is None or now.sha256 != record.sha256:
            what = f"{path.parent / FILE_NAME} says that {path.name} was made anew since"
            checks.offend(check, f"{path.stem}.hdf5", what)


def _verify_file(task: tuple[Path, FileRecord | None], expected: Expected) -> ShardFindings:
    path, record = task
    findings = check_shard(path, expected)
    n_compared, findings.row_hashes = len(findings.row_hashes), np.unique(findings.row_hashes)
    if n_repeated := n_compared - len(findings.row_hashes):
        findings.offend("rows repeated", f"{n_repeated:,} of its rows are there before, the same masks included")
    if record is None:
        return findings
    try:
        what = offence_of_bytes(path, record)
    except OSError as error:  # no permission, or a disk that fails
        findings = ShardFindings(lengths=np.zeros(expected.seq_length + 1, dtype=np.int64))
        findings.offend("readable", f"it cannot be read ({error.strerror or error})")
        return findings
    if what:
        findings.offend("size and hash", what)
    n_rows = record.counts.get("rows")
    if "readable" not in findings.offences and findings.n_rows and n_rows not in (None, findings.n_rows):
        findings.offend("row counts", f"it has {findings.n_rows:,} rows, and {FILE_NAME} says {n_rows:,}")
    return findings


def _note_offences(checks: Checks, name: str, findings: ShardFindings) -> None:
    for check, offence in findings.offences.items():
        few = offence.n_rows <= FURTHER_SPECIAL_SHARE * findings.n_rows
        status = {"status": WARNING} if check == "no other special token" and few else {}
        checks.offend(check, name, offence.what, offence.n_rows, offence.row, **status)


def _check_replacement(checks: Checks, name: str, found: ShardFindings, expected: Expected, of: str = "") -> None:
    """What became of masked tokens, within the error of so many draws; `of` says if more than the file is meant."""
    n, vocab_size = found.n_masked, expected.special.vocab_size
    if vocab_size > LARGEST_ID:
        vocab_size = found.max_id + 1
    # A tenth is replaced by any token, which now and then is [MASK], or the token that was there.
    by_chance = (1 - AS_MASK - UNCHANGED) / vocab_size
    shares = {"[MASK]": (found.n_as_mask, AS_MASK + by_chance), "kept": (found.n_kept, UNCHANGED + by_chance)}
    shares["random"] = (n - found.n_as_mask - found.n_kept, 1 - AS_MASK - UNCHANGED - 2 * by_chance)
    if n and any(abs(count - n * share) > 1 + n * _margin(share, n) for count, share in shares.values()):
        numbers = ", ".join(f"{count / n:.2%} {what}" for what, (count, _) in shares.items())
        checks.offend("80/10/10 replacement", name, f"{of}of {n:,} masked tokens are {numbers}")


def _check_balance(checks: Checks, name: str, found: ShardFindings, of: str = "") -> None:
    """How many next sentences are random; arguments as above."""
    n, (low, high) = int(found.lengths.sum()), RANDOM_NEXT_BOUNDS
    share = found.n_random_next / max(1, n)
    if n and not low - _margin(low, n) <= share <= high + _margin(high, n):
        what = f"{of}{share:.1%} of {n:,} next sentences are random, not {low:.0%} to {high:.0%}"
        status = WARNING if high < share < RANDOM_NEXT_LIMIT else FAILED
        checks.offend("next-sentence balance", name, what, status=status)


def _margin(share: float, n: int) -> float:
    return STANDARD_ERRORS * (share * (1 - share) / n) ** 0.5


class _Split:
    """What was counted in the files of a split."""

    def __init__(self, seq_length: int):
        self.total = ShardFindings(lengths=np.zeros(seq_length + 1, dtype=np.int64))
        self.n_files, self.most_deviating, self._deviation = 0, "", -1.0

    def add(self, name: str, findings: ShardFindings) -> None:
        self.n_files += 1
        for field in ("n_rows", "n_random_next", "n_masked", "n_as_mask", "n_kept"):
            setattr(self.total, field, getattr(self.total, field) + getattr(findings, field))
        self.total.max_id = max(self.total.max_id, findings.max_id)
        self.total.lengths += findings.lengths
        deviation = abs(findings.n_as_mask - AS_MASK * findings.n_masked)
        if deviation > self._deviation:
            self.most_deviating, self._deviation = name, deviation

    def statistics(self) -> dict[str, object]:
        """For the report; shares are of the rows that passed."""
        total, lengths = self.total, np.arange(len(self.total.lengths))
        n_rows, n_tokens = max(1, int(total.lengths.sum())), int((lengths * total.lengths).sum())
        edges = np.unique(np.linspace(0, lengths[-1], HISTOGRAM_BINS + 1).astype(int))
        histogram = {f"{a + 1}-{b}": int(total.lengths[a + 1 : b + 1].sum()) for a, b in itertools.pairwise(edges)}
        n_masked = max(1, total.n_masked)
        return {
            "files": self.n_files,
            "rows": total.n_rows,
            "mean length": n_tokens / n_rows,
            "share of real tokens": n_tokens / (n_rows * max(1, int(lengths[-1]))),
            "share of full rows": int(total.lengths[-1]) / n_rows,
            "share masked": total.n_masked / max(1, n_tokens),
            "of these [MASK]": total.n_as_mask / n_masked,
            "of these random": (total.n_masked - total.n_as_mask - total.n_kept) / n_masked,
            "of these kept": total.n_kept / n_masked,
            "share of random next sentences": total.n_random_next / n_rows,
            "lengths": histogram,
        }


def _expected(
    folder: Path,
    files: Sequence[Path],
    manifest: Manifest | None,
    vocab_file: str | Path | None,
    checks: Checks,
) -> tuple[Expected, list[str]]:
    """What the shards are held against, and sentences that say where that is from."""
    parameters = dict(manifest.parameters) if manifest else {}
    notes = [] if manifest else [f"There is no {FILE_NAME}; hashes, row counts and lost files cannot be checked."]
    seq_length, n_positions = parameters.get("max_seq_length"), parameters.get("max_predictions_per_seq")
    if seq_length is None or n_positions is None:
        widths = [widths for widths in map(widths_of, files) if widths]
        if not widths:
            raise UserError(NO_SHARDS.format(file=files[0]))
        seq_length, n_positions = max(widths, key=widths.count)
        notes.append(f"Most files hold rows of {seq_length} tokens and {n_positions} masked positions; so should all.")
    probability = parameters.get("masked_lm_prob")
    if probability is None:
        named = re.search(r"masked_lm_prob_(\d*\.?\d+)", str(folder.absolute()))
        probability = float(named[1]) if named else DEFAULT_MASKED_LM_PROB
        source = "as the folder's name says" if named else "as published"
        notes.append(f"A share of {probability} of each row's tokens should be masked, {source}.")
    unknown = SpecialIds(0, 0, 0, LARGEST_ID + 1)
    expected = Expected(
        unknown, seq_length, n_positions, probability, rule_in(parameters), our_types=manifest is not None
    )
    special, note = _special_ids(files, expected, parameters.get("vocabulary", {}), vocab_file, checks)
    return dataclasses.replace(expected, special=special), [note, *notes]


def _special_ids(
    files: Sequence[Path], expected: Expected, recorded: dict, vocab_file: str | Path | None, checks: Checks
) -> tuple[SpecialIds, str]:
    """The ids to expect, from the vocabulary, the manifest or the rows, and a sentence that says from which."""
    if vocab_file is not None:
        vocab = load_vocab(vocab_file)
        if recorded and sha256_of(vocab_file) != recorded.get("sha256"):
            checks.offend("vocabulary", FILE_NAME, f"it names another vocabulary than {vocab_file}")
        return SpecialIds(vocab[CLS], vocab[SEP], vocab[MASK], len(vocab)), f"Special tokens are those of {vocab_file}."
    if {"cls", "sep", "mask"} <= recorded.keys():
        special = SpecialIds(recorded["cls"], recorded["sep"], recorded["mask"], recorded["size"])
        return special, f"Special tokens are those in {FILE_NAME}."
    special = dataclasses.replace(_inferred_ids(files, expected), vocab_size=recorded.get("size", LARGEST_ID + 1))
    if not recorded:
        by_vocabulary = ("vocabulary", "input_ids in vocabulary", "masked_lm_ids in vocabulary")
        checks.skip(by_vocabulary, "neither --vocab_file nor a manifest says which it is")
    return special, (
        f"Special tokens are taken from the rows: [CLS] {special.cls}, [SEP] {special.sep}, [MASK] {special.mask}, as "
        "most rows have them first, last, and where masked; give --vocab_file to check them."
    )


def _inferred_ids(files: Sequence[Path], expected: Expected) -> SpecialIds:
    for path in files:
        # The types may be what is wrong with a file, and say nothing against its numbers.
        rows = first_rows(path, dataclasses.replace(expected, our_types=False))
        if rows is None:
            continue
        ids, positions = (rows[name].astype(np.int64) for name in ("input_ids", "masked_lm_positions"))
        last = np.clip(np.count_nonzero(rows["input_mask"], axis=1) - 1, 0, None)
        masked = np.take_along_axis(ids, np.clip(positions, 0, ids.shape[1] - 1), axis=1)[positions > 0]
        if len(masked):
            return SpecialIds(*map(_most_frequent, (ids[:, 0], ids[np.arange(len(ids)), last], masked)), vocab_size=0)
    raise UserError(NO_SHARDS.format(file=files[0]))


def _most_frequent(values: np.ndarray) -> int:
    distinct, counts = np.unique(values, return_counts=True)
    return int(distinct[counts.argmax()])
