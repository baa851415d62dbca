"""SQuAD files, v1.1 and v2.0, as their many makers write them, read and checked as a whole.

A file that says wrongly where an answer starts trains a worse model without a word. So what training takes for granted
is checked here, once, and what is wrong is named by its place in the file. What is not used is not demanded: scores
compare texts alone, a question that is only to be answered needs no answers, and one to train on no id. The format is
that of https://rajpurkar.github.io/SQuAD-explorer/.
"""

import itertools
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from common.errors import Problems, UserError
from common.json_files import read_json

N_LISTED = 5  # of the problems of one kind

# What a key holds, in words and as JSON's types. Annotation tools write ids as numbers, flags as 0 and 1, 8 as 8.0.
KINDS = MappingProxyType(
    {
        **dict.fromkeys(("data", "paragraphs", "qas", "answers"), ("a list", list)),
        **dict.fromkeys(("context", "question", "text"), ("a string", str)),
        "id": ("a string", str, int),
        "answer_start": ("an integer", int, float),
        "is_impossible": ("true or false", bool, int),
    }
)


@dataclass(frozen=True)
class Answer:
    """A slice of a context: context[start : start + len(text)] == text. In a file to score `start` is -1: not known."""

    text: str
    start: int = -1


@dataclass(frozen=True)
class SquadExample:
    """A question about a context. The questions of a paragraph share one string, the context."""

    id: str
    question: str
    context: str
    answers: tuple[Answer, ...] = ()  # training takes the first


def read_squad(
    path: str | os.PathLike,
    version_2_with_negative: bool,
    skip_bad_answers: bool = False,
    report: Callable[[str], object] = print,
    use: Literal["train", "score", "answer"] = "train",
) -> list[SquadExample]:
    """The questions of a SQuAD file, in their order.

    Args:
        version_2_with_negative: questions without an answer are allowed, as in v2.0.
        skip_bad_answers: drop answers that are not in the context where they are said to start, questions that are left
            without one and, but to train, all but the first of questions with one id, and tell `report`; else they are
            an error.
        use: what for, which says what a question must have.

    Raises:
        UserError: no such file, not JSON, not SQuAD's structure, no questions; to score or answer, repeated ids; to
            train on, answers that are not in their contexts; questions without an answer though the flag is not given.
    """
    content = read_json(path, "SQuAD file", "repair it or get it again")
    wrong, unanswered, bad, repeated = [], [], [], []
    examples, place_of = [], {}
    for context, question, place in _questions(content, wrong):
        n_wrong, answers = len(wrong), []
        # To train, a question needs no id: nothing is written under it.
        key = question.get("id", place) if use == "train" else _member(question, "id", place, wrong)
        text = _member(question, "question", place, wrong)
        is_impossible = use != "answer" and _member({"is_impossible": False} | question, "is_impossible", place, wrong)
        # Scores are those of the official script, for which a question is impossible where it has no answers.
        if use != "answer" and not (is_impossible and (use == "train" or "answers" not in question)):
            for answer, at in _objects(question, "answers", place, wrong):
                if _says_none(answer):
                    continue
                start = _member(answer, "answer_start", at, wrong) if use == "train" else -1
                answers.append((_member(answer, "text", at, wrong), start))
        if len(wrong) > n_wrong:
            continue
        if use != "train" and place_of.setdefault(str(key), place) != place:
            repeated.append(f"{place}: its id {key!r} is that of {place_of[str(key)]} too")
            continue
        if not (answers or version_2_with_negative or use == "answer"):
            unanswered.append(f"{place}: question {key!r} has no answer")
        found = [_find(*answer, context) if use == "train" else Answer(answer[0]) for answer in answers]
        for (answer, start), there in zip(answers, found, strict=True):
            if there is None:
                bad.append(f"{place}: question {key!r}: the answer {answer[:40]!r} is not at character {start}")
        if any(found) or not answers:
            examples.append(SquadExample(str(key), text, context, tuple(filter(None, found))))
    problems = Problems()
    for places, what, remedy, can_be_skipped in (
        (wrong, "deviations from SQuAD's format", "repair it", False),
        (unanswered, "questions without an answer", "give --version_2_with_negative, or remove them", False),
        (bad, "answers that are not where answer_start says", "repair them, or give --skip_bad_answers", True),
        (repeated, "ids of several questions", "rename them, or keep the first with --skip_bad_answers", True),
    ):
        more = [f"... and {len(places) - N_LISTED} more"] if len(places) > N_LISTED else []
        listed = "\n  ".join([f"{path} has {len(places)} {what}:", *places[:N_LISTED], *more])
        if places and can_be_skipped and skip_bad_answers:
            report(f"{listed}; skipped.")
        elif places:
            problems.add(listed, remedy)
    problems.raise_if_any()
    if not examples:
        raise UserError(f"{path}: holds no question that can be used", "give a SQuAD file with questions")
    return examples


def _questions(content: dict, wrong: list[str]) -> Iterator[tuple[str, dict, str]]:
    """Each question with its context before it and its place behind it."""
    for article, article_place in _objects(content, "data", "", wrong):
        is_row = "question" in article and "paragraphs" not in article  # of Hugging Face's datasets
        itself = [(article, article_place)]
        for paragraph, place in itself if is_row else _objects(article, "paragraphs", article_place, wrong):
            context = _member(paragraph, "context", place, wrong)
            for question, question_place in itself if is_row else _objects(paragraph, "qas", place, wrong):
                if context is not None:
                    yield context, _tidy(question), question_place


def _tidy(question: dict) -> dict:
    """Without keys that are null, which say nothing, and with Hugging Face's columns of answers as SQuAD's rows."""
    tidy = {key: value for key, value in question.items() if value is not None}
    columns = tidy.get("answers")
    if isinstance(columns, dict) and all(isinstance(column, list) for column in columns.values()):
        tidy["answers"] = [dict(zip(columns, row, strict=True)) for row in itertools.zip_longest(*columns.values())]
    return tidy


def _says_none(answer: dict) -> bool:
    """Whether it is how some files say that there is no answer: blank, at -1 or at no place."""
    text = answer.get("text")
    return isinstance(text, str) and not text.strip() and answer.get("answer_start") in (None, -1)


def _objects(parent: dict, key: str, place: str, wrong: list[str]) -> Iterator[tuple[dict, str]]:
    """The objects in the list parent[key], with their places."""
    for i, item in enumerate(_member(parent, key, place, wrong) or ()):
        at = f"{place}.{key}[{i}]".lstrip(".")
        if isinstance(item, dict):
            yield item, at
        else:
            wrong.append(f"{at} is {json.dumps(item)[:60]} and must be an object")


def _member(parent: dict, key: str, place: str, wrong: list[str]) -> Any:
    """parent[key]; None, with its place noted in `wrong`, where it is not of its kind. `place` is that of `parent`."""
    value, (kind, *types) = parent.get(key), KINDS[key]
    if type(value) in types:  # not isinstance, for which True is an integer
        return value
    found = f"is {json.dumps(value)[:60]}" if key in parent else "is missing"
    wrong.append(f"{place}.{key} {found} and must be {kind}".lstrip("."))
    return None


def _find(text: str, start: float, context: str) -> Answer | None:
    """The answer as the context has it at its start; None if it is not there.

    White space may differ, because it does in the published files, and no score depends on it.
    """
    if start % 1 or not 0 <= start < len(context) or not text.strip():
        return None
    if context.startswith(text, int(start)):
        return Answer(text, int(start))
    at = re.compile(r"\s*").match(context, int(start)).end()
    match = re.compile(r"\s+".join(map(re.escape, text.split()))).match(context, at)
    return Answer(match.group(), at) if match else None
