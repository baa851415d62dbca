"""SQuAD questions to windows, the inputs of the model: [CLS] question [SEP] a part of the context [SEP].

A context that does not fit goes in overlapping parts, `doc_stride` tokens apart, as in run_squad of
google-research/bert. Scores depend on all of it (where parts begin, which of them speaks for a token that several
hold), so the rules are exactly the published ones. One thing is better: the answer is the tokens that hold its
characters, where the published code searches its text again in the tokens of the words around it.

A file of the cache is named by a hash of all that shapes the features, so that a stale one cannot be met.
"""

import functools
import hashlib
import itertools
import json
import os
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from common.errors import UserError
from common.words import counted
from common.workers import workers
from file_utils import atomic_write, locked
from tasks.squad.examples import SquadExample
from tasks.squad.token_offsets import OffsetTokenizer, TokenOffsets
from tokenization import BertTokenizer

FORMAT_VERSION = 1  # of the cache; to be raised when other features are made of the same questions
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


def squad_features(
    examples: Sequence[SquadExample],
    tokenizer: BertTokenizer,
    max_seq_length: int,
    doc_stride: int,
    max_query_length: int,
    n_processes: int = 1,
    cache_dir: str | os.PathLike | None = None,
    report: Callable[[str], object] = print,
    *,
    progress: bool = True,
) -> SquadFeatures:
    """The windows of all questions; the same whatever `n_processes`.

    Args:
        max_seq_length: tokens in a window, at most.
        doc_stride: tokens of the context from one window's begin to the next one's.
        max_query_length: tokens of the question that are kept.
        cache_dir: a folder where they are read if they were made before, and else written. Any number of processes may
            ask at once: one makes them, the others wait and read.
        report: is told where they came from, and of a damaged file, which is made anew.
        progress: a bar on stderr, when that is a terminal.

    Raises:
        UserError: no example with a token; a worker that was killed; a folder that cannot be written to.
    """
    lengths = max_seq_length, doc_stride, max_query_length
    if cache_dir is None:
        return _make(examples, tokenizer, lengths, n_processes, progress)
    path = Path(cache_dir) / f"squad_features_{features_key(examples, tokenizer, *lengths)}.npz"
    try:
        with locked(path.with_name(f".{path.name}.lock"), waiting=""):
            features = _read(path, report)
            if features is None:
                features = _make(examples, tokenizer, lengths, n_processes, progress)
                with atomic_write(path, "wb") as file:
                    np.savez(file, **vars(features))
                report(f"{path}: holds the features now.")
            return features
    except OSError as error:
        raise UserError(
            f"{cache_dir}: features cannot be kept here ({error.strerror})", "give another --cache_dir, or --skip_cache"
        ) from error


def _make(
    examples: Sequence[SquadExample],
    tokenizer: BertTokenizer,
    lengths: tuple[int, int, int],
    n_processes: int,
    progress: bool,
) -> SquadFeatures:
    firsts = range(0, len(examples), EXAMPLES_PER_TASK)
    tasks = ((first, examples[first : first + EXAMPLES_PER_TASK]) for first in firsts)
    convert = functools.partial(_convert, OffsetTokenizer(tokenizer), lengths)
    parts = []
    with (
        workers(n_processes) as pool,
        tqdm(total=len(examples), unit="question", desc="SQuAD features", disable=None if progress else True) as bar,
    ):
        for first, part in zip(firsts, pool.map(convert, tasks, "SQuAD features"), strict=True):
            parts.append(part)
            bar.update(min(EXAMPLES_PER_TASK, len(examples) - first))
    windows = np.concatenate([windows for _, windows in parts])
    if not len(windows):
        raise UserError(f"None of the {len(examples)} questions has a context with text in it", "give other questions")
    input_ids, char_starts, char_ends, is_max_context = np.concatenate([tokens for tokens, _ in parts], axis=1)
    example_index, window_lengths, question_lengths, starts, ends = windows.T.copy()
    return SquadFeatures(
        input_ids=input_ids,
        char_starts=char_starts,
        char_ends=char_ends,
        is_max_context=is_max_context.astype(np.bool_),
        offsets=np.concatenate([[0], np.cumsum(window_lengths)]),
        question_lengths=question_lengths.astype(np.int32),
        example_index=example_index.astype(np.int32),
        start_positions=starts,
        end_positions=ends,
    )


def _convert(
    tokens: OffsetTokenizer, lengths: tuple[int, int, int], task: tuple[int, Sequence[SquadExample]]
) -> tuple[np.ndarray, np.ndarray]:
    """The windows of examples of which the first is number task[0].

    Returns:
        of each token its id, first and end character and whether its window speaks for it, (4, T) int32; and of each
        window its example, its length, that of its question, and the answer's first and last token, (N, 5) int64.
    """
    max_seq_length, doc_stride, max_query_length = lengths
    first, examples = task
    tokenizer, text = tokens.tokenizer, None
    columns, windows = [_outside([])], []
    for number, example in enumerate(examples, first):
        if example.context != text:  # it is tokenized once, not once a question
            text, context = example.context, tokens.encode(example.context)
        question = tokenizer.encode_batch([example.question])[0][:max_query_length]
        before = _outside([tokenizer.cls_token_id, *question, tokenizer.sep_token_id])
        after = _outside([tokenizer.sep_token_id])
        answer, n_before = _answer_tokens(example, context), len(question) + 2
        spans = _spans(len(context.ids), max_seq_length - n_before - 1, doc_stride)
        speakers = _speakers(spans)
        for window, (begin, end) in enumerate(spans):
            part = [*(array[begin:end] for array in context), speakers[begin:end] == window]
            columns += [before, np.array(part, dtype=np.int32), after]
            is_inside = answer and begin <= answer[0] and answer[1] < end
            answer_in_window = [token - begin + n_before for token in answer] if is_inside else [0, 0]
            windows.append((number, n_before + end - begin + 1, n_before, *answer_in_window))
    return np.concatenate(columns, axis=1), np.array(windows, dtype=np.int64).reshape(-1, 5)


def _outside(ids: Sequence[int]) -> np.ndarray:
    """(4, n): tokens that are not of the context."""
    return np.array([(token, -1, -1, 0) for token in ids], dtype=np.int32).reshape(-1, 4).T


def _spans(n_tokens: int, room: int, doc_stride: int) -> list[tuple[int, int]]:
    """Where the parts of a context of `n_tokens` tokens begin and end; `room` tokens fit.

    They are `doc_stride` apart, or `room` if that is less, and the last is the first that reaches the end.
    """
    step = min(doc_stride, room)
    begins = range(0, max(0, n_tokens - room) + step, step) if n_tokens else ()
    return [(begin, min(begin + room, n_tokens)) for begin in begins]


def _speakers(spans: Sequence[tuple[int, int]]) -> np.ndarray:
    """For each token of the context the part that speaks for it, (n_tokens,) int64.

    It is the one that has most of the lesser of the contexts to the left and to the right, plus 0.01 times its length;
    the first of equals (google-research/bert, run_squad.py).
    """
    n_tokens = spans[-1][1] if spans else 0
    best, speakers = np.full(n_tokens, -np.inf), np.zeros(n_tokens, dtype=np.int64)
    for number, (begin, end) in enumerate(spans):
        left = np.arange(end - begin)
        score = np.minimum(left, left[::-1]) + 0.01 * (end - begin)
        is_better = score > best[begin:end]
        best[begin:end][is_better] = score[is_better]
        speakers[begin:end][is_better] = number
    return speakers


def _answer_tokens(example: SquadExample, context: TokenOffsets) -> tuple[int, int] | None:
    """The first and last token of the context with characters of the first answer; None if there is none."""
    answer = example.answers[0] if example.answers else None
    if answer is None or answer.start < 0:
        return None
    first = int(np.searchsorted(context.ends, answer.start, side="right"))
    last = int(np.searchsorted(context.starts, answer.start + len(answer.text))) - 1
    return (first, last) if first <= last else None


def features_key(examples: Sequence[SquadExample], tokenizer: BertTokenizer, *lengths: int) -> str:
    """SHA-256 of all that shapes the features, in hexadecimal.

    The questions themselves are hashed, not the file they came from: that covers what reading the file was told.
    """
    vocabulary = hashlib.sha256("\n".join(tokenizer.vocab).encode("utf-8", "surrogatepass")).hexdigest()
    settings = [FORMAT_VERSION, unicodedata.unidata_version, vocabulary, tokenizer.rules, *lengths]
    digest = hashlib.sha256(json.dumps(settings).encode())
    for context, group in itertools.groupby(examples, key=lambda example: example.context):
        questions = [[one.question, [[answer.text, answer.start] for answer in one.answers[:1]]] for one in group]
        digest.update(json.dumps([context, questions]).encode())
    return digest.hexdigest()


def _read(path: Path, report: Callable[[str], object]) -> SquadFeatures | None:
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as arrays:
            features = SquadFeatures(**arrays)
    except Exception as error:  # there is hardly one that zipfile and numpy do not raise on a damaged file
        report(f"{path}: is damaged ({error}); the features are made anew.")
        return None
    report(f"{path}: features of {counted(len(features), 'window')}, made before, are read from here.")
    return features
