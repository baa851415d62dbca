"""SQuAD questions to windows, the inputs of the model: [CLS] question [SEP] a part of the context [SEP].

A context that does not fit goes in overlapping parts, `doc_stride` tokens apart, as in run_squad of
google-research/bert. Scores depend on all of it (where parts begin, which of them speaks for a token that several
hold), so the rules are exactly the published ones. One thing is better: the answer is the tokens that hold its
characters, where the published code searches its text again in the tokens of the words around it.

Everything about all windows is a few flat arrays: they are cut by offsets, written to disk and read again as they are,
and handed between processes cheaply. A context is tokenized once, not once per question. The cache on disk saves the
work to the other ranks and to the next run; a file in it is named by a hash of all that shapes the features, so that a
stale one cannot be met.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from common.errors import Problems, UserError
from common.workers import workers
from file_utils import atomic_write, locked
from tasks.squad.examples import SquadExample
from tasks.squad.token_offsets import OffsetTokenizer, TokenOffsets
from tokenization import BertTokenizer

FORMAT_VERSION = 1  # of the cache; to be raised when other features are made of the same questions
N_SPECIAL = 3  # [CLS] question [SEP] context [SEP]
EXAMPLES_PER_TASK = 256


@dataclass(frozen=True)
class SquadFeatures:
    """N windows with T tokens in all; window i has the tokens offsets[i]:offsets[i + 1] of the flat arrays.

    Windows are in the order of their questions, and of the parts of the context. A question whose context has no token
    has no window.
    """

    input_ids: np.ndarray  # (T,) int32
    char_starts: np.ndarray  # (T,) int32: where the token begins in the context; -1 if it is not of the context
    char_ends: np.ndarray  # (T,) int32: where it ends, one after its last character; -1 likewise
    is_max_context: np.ndarray  # (T,) bool: of the windows that hold this token of the context, this one speaks for it
    offsets: np.ndarray  # (N + 1,) int64
    question_lengths: np.ndarray  # (N,) int32: tokens before the context, [CLS] and [SEP] included; of type 0
    example_index: np.ndarray  # (N,) int32: whose question it is
    start_positions: np.ndarray  # (N,) int64: the first answer's first token in the window; 0 if not whole
    end_positions: np.ndarray  # (N,) int64: its last token; 0 likewise

    def __len__(self) -> int:
        return len(self.question_lengths)

    @property
    def lengths(self) -> np.ndarray:
        """(N,) int64: tokens of each window."""
        return np.diff(self.offsets)

    @staticmethod
    def concatenate(parts: Sequence["SquadFeatures"]) -> "SquadFeatures":
        """The windows of all parts, at least one, in their order."""
        arrays = {
            field.name: np.concatenate([getattr(part, field.name) for part in parts])
            for field in dataclasses.fields(SquadFeatures)
            if field.name != "offsets"
        }
        lengths = np.concatenate([part.lengths for part in parts])
        return SquadFeatures(**arrays, offsets=_offsets(lengths))


def _offsets(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)


def squad_features(
    examples: Sequence[SquadExample],
    tokenizer: BertTokenizer,
    max_seq_length: int,
    doc_stride: int,
    max_query_length: int,
    n_processes: int = 1,
    *,
    progress: bool = True,
) -> SquadFeatures:
    """The windows of all questions; the same whatever `n_processes`.

    Args:
        max_seq_length: tokens in a window, at most.
        doc_stride: tokens of the context from one window's begin to the next one's.
        max_query_length: tokens of the question that are kept.
        progress: a bar on stderr, when that is a terminal.

    Raises:
        UserError: lengths that leave no room; no example with a token; a worker that was killed.
    """
    _check_lengths(max_seq_length, doc_stride, max_query_length, n_processes)
    converter = _Converter(OffsetTokenizer(tokenizer), max_seq_length, doc_stride, max_query_length)
    firsts = range(0, len(examples), EXAMPLES_PER_TASK)
    tasks = ((first, examples[first : first + EXAMPLES_PER_TASK]) for first in firsts)
    parts = []
    with (
        workers(n_processes) as pool,
        tqdm(total=len(examples), unit="question", desc="SQuAD features", disable=None if progress else True) as bar,
    ):
        for first, part in zip(firsts, pool.map(converter.convert, tasks, "SQuAD features"), strict=True):
            parts.append(part)
            bar.update(min(EXAMPLES_PER_TASK, len(examples) - first))
    if not any(map(len, parts)):
        raise UserError(f"None of the {len(examples)} questions has a context with text in it", "give other questions")
    return SquadFeatures.concatenate(parts)


def _check_lengths(max_seq_length: int, doc_stride: int, max_query_length: int, n_processes: int) -> None:
    problems = Problems()
    problems.check(n_processes >= 1, f"{n_processes} processes cannot make SQuAD features", "give 1 or more")
    problems.check(doc_stride >= 1, f"--doc_stride {doc_stride} never moves on", "give 1 or more")
    problems.check(max_query_length >= 0, f"--max_query_length {max_query_length} is negative", "give 0 or more")
    problems.check(
        max_seq_length > max_query_length + N_SPECIAL,
        f"--max_seq_length {max_seq_length} leaves no room for the context beside a question of --max_query_length "
        f"{max_query_length} and {N_SPECIAL} special tokens",
        f"give at least {max_query_length + N_SPECIAL + 1}",
    )
    problems.raise_if_any()


class _Converter:
    """Makes the windows of some examples; works in any process."""

    def __init__(self, tokens: OffsetTokenizer, max_seq_length: int, doc_stride: int, max_query_length: int) -> None:
        self.tokens = tokens
        self.max_seq_length = max_seq_length
        self.doc_stride = doc_stride
        self.max_query_length = max_query_length

    def convert(self, task: tuple[int, Sequence[SquadExample]]) -> SquadFeatures:
        """The windows of examples of which the first is number task[0]."""
        first, examples = task
        tokens, windows = [np.zeros((4, 0), dtype=np.int32)], []
        index = itertools.count(first)
        for text, group in itertools.groupby(examples, key=lambda example: example.context):
            context = self.tokens.encode(text)
            group = list(group)
            ids, offsets = self.tokens.tokenizer.encode_batch([example.question for example in group])
            for i, example in enumerate(group):
                question = ids[offsets[i] : offsets[i + 1]][: self.max_query_length]
                number, answer = next(index), _answer_tokens(example, context)
                for window, start, end in self._windows(question, context, answer):
                    tokens.append(window)
                    windows.append((number, window.shape[1], len(question) + 2, start, end))
        input_ids, char_starts, char_ends, is_max_context = np.concatenate(tokens, axis=1)
        numbers, lengths, question_lengths, starts, ends = np.array(windows, dtype=np.int64).reshape(-1, 5).T.copy()
        return SquadFeatures(
            input_ids=input_ids,
            char_starts=char_starts,
            char_ends=char_ends,
            is_max_context=is_max_context.astype(np.bool_),
            offsets=_offsets(lengths),
            question_lengths=question_lengths.astype(np.int32),
            example_index=numbers.astype(np.int32),
            start_positions=starts,
            end_positions=ends,
        )

    def _windows(
        self, question: np.ndarray, context: TokenOffsets, answer: tuple[int, int] | None
    ) -> Iterator[tuple[np.ndarray, int, int]]:
        """Each window of a question: of its tokens id, first and end character, and whether it speaks for them, (4, n)
        int32; and the answer's first and last token in it. `answer` is that in the context."""
        tokenizer, n_before = self.tokens.tokenizer, len(question) + 2
        begins, ends = context_windows(len(context.ids), self.max_seq_length - n_before - 1, self.doc_stride)
        if not len(begins):
            return
        speakers = max_context_windows(begins, ends)
        before = _outside([tokenizer.cls_token_id, *question, tokenizer.sep_token_id])
        after = _outside([tokenizer.sep_token_id])
        for number, (begin, end) in enumerate(zip(begins.tolist(), ends.tolist(), strict=True)):
            part = [array[begin:end] for array in (*context, speakers == number)]
            start_position = end_position = 0
            if answer and begin <= answer[0] and answer[1] < end:
                start_position, end_position = (token - begin + n_before for token in answer)
            yield np.concatenate([before, part, after], axis=1, dtype=np.int32), start_position, end_position


def _outside(ids: Sequence[int]) -> np.ndarray:
    """(4, n): tokens that are not of the context."""
    return np.array([[token, -1, -1, 0] for token in ids], dtype=np.int32).T


def context_windows(n_tokens: int, room: int, doc_stride: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the parts of a context of `n_tokens` tokens begin and end, (W,) int64 each; `room` tokens fit.

    They are `doc_stride` apart, or `room` if that is less, and the last is the first that reaches the end.
    """
    step = min(doc_stride, room)
    n_windows = 1 + max(0, -(-(n_tokens - room) // step)) if n_tokens else 0
    begins = np.arange(n_windows, dtype=np.int64) * step
    return begins, np.minimum(begins + room, n_tokens)


def max_context_windows(begins: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """For each token of the context the window that speaks for it, (n_tokens,) int64.

    It is the one that has most of the lesser of the contexts to the left and to the right, plus 0.01 times its length;
    the first of equals (google-research/bert, run_squad.py).
    """
    positions = np.arange(ends[-1])
    left = positions - begins[:, None]
    right = ends[:, None] - 1 - positions
    score = np.minimum(left, right) + 0.01 * (ends - begins)[:, None]
    score[(left < 0) | (right < 0)] = -np.inf
    return score.argmax(axis=0)


def _answer_tokens(example: SquadExample, context: TokenOffsets) -> tuple[int, int] | None:
    """The first and last token of the context with characters of the first answer; None if there is none."""
    if example.is_impossible or not example.answers:
        return None
    answer = example.answers[0]
    covering = np.flatnonzero((context.starts < answer.start + len(answer.text)) & (context.ends > answer.start))
    return (int(covering[0]), int(covering[-1])) if len(covering) else None


def cached_squad_features(
    cache_dir: str | os.PathLike,
    examples: Sequence[SquadExample],
    tokenizer: BertTokenizer,
    max_seq_length: int,
    doc_stride: int,
    max_query_length: int,
    n_processes: int = 1,
    report: Callable[[str], object] = print,
    *,
    progress: bool = True,
) -> SquadFeatures:
    """`squad_features`, read from `cache_dir` if they were made before, else made and written there.

    Any number of processes may call this at once: one makes them, the others wait and read.

    Args:
        report: is told, in sentences, where they came from, and of a damaged file, which is made anew.

    Raises:
        UserError: as `squad_features`; a folder that cannot be written to.
    """
    _check_lengths(max_seq_length, doc_stride, max_query_length, n_processes)
    folder = Path(cache_dir)
    key = features_key(examples, tokenizer, max_seq_length, doc_stride, max_query_length)
    path = folder / f"squad_features_{key}.npz"
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(folder / f".{path.name}.lock", waiting=""))
        except OSError as error:
            raise UserError(
                f"{folder}: features cannot be kept here ({error.strerror})",
                "give another --cache_dir, or --skip_cache",
            ) from error
        features = _read(path, report)
        if features is None:
            features = squad_features(
                examples, tokenizer, max_seq_length, doc_stride, max_query_length, n_processes, progress=progress
            )
            _write(path, features)
            report(f"{path}: holds the features now.")
    return features


def features_key(
    examples: Sequence[SquadExample],
    tokenizer: BertTokenizer,
    max_seq_length: int,
    doc_stride: int,
    max_query_length: int,
) -> str:
    """SHA-256 of all that shapes the features, in hexadecimal.

    The questions themselves are hashed, not the file they came from: that covers what reading the file was told.
    """
    vocabulary = hashlib.sha256("\n".join(tokenizer.vocab).encode("utf-8", "surrogatepass")).hexdigest()
    lengths = [max_seq_length, doc_stride, max_query_length]
    settings = [FORMAT_VERSION, unicodedata.unidata_version, vocabulary, tokenizer.do_lower_case, *lengths]
    digest = hashlib.sha256(json.dumps(settings).encode())
    for context, group in itertools.groupby(examples, key=lambda example: example.context):
        questions = [
            [example.question, example.is_impossible, [[answer.text, answer.start] for answer in example.answers[:1]]]
            for example in group
        ]
        digest.update(json.dumps([context, questions]).encode())
    return digest.hexdigest()


def _write(path: Path, features: SquadFeatures) -> None:
    with atomic_write(path, "wb") as file:
        np.savez(file, **{field.name: getattr(features, field.name) for field in dataclasses.fields(features)})


def _read(path: Path, report: Callable[[str], object]) -> SquadFeatures | None:
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as arrays:
            features = SquadFeatures(**{name: arrays[name] for name in arrays})
        sizes = {field.name: len(getattr(features, field.name)) for field in dataclasses.fields(features)}
        per_token = {"input_ids", "char_starts", "char_ends", "is_max_context"}
        n_tokens, n_windows = features.offsets[-1], len(features)
        expected = {name: n_tokens if name in per_token else n_windows for name in sizes} | {"offsets": n_windows + 1}
        if sizes != expected:
            raise ValueError("its arrays do not fit together")
    except Exception as error:  # there is hardly one that zipfile and numpy do not raise on a damaged file
        report(f"{path}: is damaged ({error}); the features are made anew.")
        return None
    report(f"{path}: features of {len(features)} windows were made before and are read from here.")
    return features
