"""SQuAD files, v1.1 and v2.0, read and checked as a whole.

Fine-tuning takes what the file says for granted: where an answer starts, that a question has one. A file that says it
wrongly trains a worse model without a word. So everything is checked here, once, and what is wrong is named by its
place in the file. The format is that of https://rajpurkar.github.io/SQuAD-explorer/.
"""

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from common.errors import UserError
from common.json_files import read_json

N_LISTED = 5  # of the problems of one kind
KIND_NAMES = MappingProxyType({list: "a list", str: "a string", int: "an integer", bool: "true or false"})

# The kinds of problems, as they are told of a file, in this order.
FORMAT = "is not in SQuAD's format; repair it"
UNANSWERED = "has questions without an answer; give --version_2_with_negative, or remove them"
BAD_ANSWERS = (
    "has answers that are not in the context where answer_start says; repair them, or skip them with --skip_bad_answers"
)
REPEATED_IDS = (
    "has questions with the same id, by which predictions are told apart; rename them, or skip all but the first with "
    "--skip_bad_answers"
)
SKIPPED = MappingProxyType(
    {
        BAD_ANSWERS: "has answers that are not where they should be; skipped",
        REPEATED_IDS: "has questions with the same id; only the first is kept",
    }
)


@dataclass(frozen=True)
class Answer:
    """A slice of a context, always: context[start : start + len(text)] == text."""

    text: str
    start: int  # in characters


@dataclass(frozen=True)
class SquadExample:
    """A question about a context. The questions of a paragraph share one string, the context."""

    id: str
    question: str
    context: str
    answers: tuple[Answer, ...]  # training takes the first; none if there is no answer
    is_impossible: bool


def read_squad(
    path: str | os.PathLike,
    version_2_with_negative: bool,
    skip_bad_answers: bool = False,
    report: Callable[[str], object] = print,
    *,
    answers_required: bool = True,
) -> list[SquadExample]:
    """Reads the questions of a SQuAD file, in their order.

    Args:
        path: JSON in UTF-8, with or without a byte order mark.
        version_2_with_negative: questions without an answer are allowed, as in v2.0.
        skip_bad_answers: drop answers that are not in the context where they are said to start, questions that are left
            without one, and all but the first of questions with one id, and tell `report`; else they are an error.
        report: is told, in sentences.
        answers_required: False for files that are only to be answered; their questions may have none.

    Raises:
        UserError: no such file, not JSON (with line and column), not SQuAD's structure (with the place), no questions,
            repeated ids, bad answers, questions without an answer though the flag is not given.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file", "give the path of a SQuAD .json file")
    content = read_json(path, "SQuAD file", "repair it or get it again", object)
    if not isinstance(content, dict):
        raise UserError(f'{path}: is not an object with a list "data"', "give a SQuAD .json file")
    problems: dict[str, list[str]] = {FORMAT: [], UNANSWERED: [], BAD_ANSWERS: [], REPEATED_IDS: []}
    examples, place_of_id = [], {}
    for context, question, place in _questions(content, problems[FORMAT]):
        example = _example(question, context, place, answers_required, problems[FORMAT])
        if example is None:
            continue
        first = place_of_id.setdefault(example.id, place)
        if first != place:
            problems[REPEATED_IDS].append(f"{place}: its id {example.id!r} is that of {first} too.")
            continue
        if not example.answers and not version_2_with_negative and (example.is_impossible or answers_required):
            problems[UNANSWERED].append(f"{place}: question {example.id!r} has no answer.")
        found = [_find(answer, context) for answer in example.answers]
        for answer, there in zip(example.answers, found, strict=True):
            if there is None:
                difference = _difference(answer, context)
                problems[BAD_ANSWERS].append(f"{place}: question {example.id!r}: {difference}.")
        good = tuple(filter(None, found))
        if good or not example.answers or not answers_required:
            # Like the official script, which asks of a question whether it has answers.
            has_none = version_2_with_negative and answers_required and not example.answers
            is_impossible = example.is_impossible or has_none
            examples.append(SquadExample(example.id, example.question, context, good, is_impossible))
    skipped = {kind: problems.pop(kind) for kind in SKIPPED} if skip_bad_answers else {}
    if sentences := [sentence for what, places in problems.items() for sentence in _sentences(path, places, what)]:
        raise UserError(sentences)
    for kind, places in skipped.items():
        for sentence in _sentences(path, places, SKIPPED[kind]):
            report(sentence)
    if not examples:
        raise UserError(f"{path}: holds no question that can be used", "give a SQuAD file with questions")
    return examples


def _member(parent: dict, key: str, kind: type, place: str, wrong: list[str]) -> Any:
    """parent[key], or None, noted in `wrong`, if it is not of this kind. `place` is that of `parent`."""
    at = f"{place}.{key}" if place else key
    value = parent.get(key)
    if key not in parent:
        wrong.append(f"{at} is missing; it must be {KIND_NAMES[kind]}.")
    elif not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        wrong.append(f"{at} must be {KIND_NAMES[kind]}, and is {json.dumps(value)[:60]}.")
    else:
        return value
    return None


def _objects(parent: dict, key: str, place: str, wrong: list[str]) -> Iterator[tuple[dict, str]]:
    """The objects in the list parent[key], with their places."""
    for i, item in enumerate(_member(parent, key, list, place, wrong) or ()):
        at = f"{place}.{key}[{i}]" if place else f"{key}[{i}]"
        if isinstance(item, dict):
            yield item, at
        else:
            wrong.append(f"{at} must be an object, and is {json.dumps(item)[:60]}.")


def _questions(content: dict, wrong: list[str]) -> Iterator[tuple[str, dict, str]]:
    """Each question with its context before it and its place behind it."""
    for article, article_place in _objects(content, "data", "", wrong):
        for paragraph, place in _objects(article, "paragraphs", article_place, wrong):
            context = _member(paragraph, "context", str, place, wrong)
            for question, question_place in _objects(paragraph, "qas", place, wrong):
                if context is not None:
                    yield context, question, question_place


def _example(question: dict, context: str, place: str, answers_required: bool, wrong: list[str]) -> SquadExample | None:
    """A question as the file has it, its answers not yet looked for in the context; None, noted, if it is none."""
    n_wrong = len(wrong)
    question_id, text = (_member(question, key, str, place, wrong) for key in ("id", "question"))
    is_impossible = "is_impossible" in question and _member(question, "is_impossible", bool, place, wrong)
    answers = ()
    if answers_required or "answers" in question:
        answers = tuple(
            Answer(_member(answer, "text", str, at, wrong), _member(answer, "answer_start", int, at, wrong))
            for answer, at in _objects(question, "answers", place, wrong)
        )
    if is_impossible and answers and len(wrong) == n_wrong:
        wrong.append(f"{place}: is_impossible is true, but there are answers.")
    return SquadExample(question_id, text, context, answers, is_impossible) if len(wrong) == n_wrong else None


def _sentences(path: Path, problems: list[str], what: str) -> list[str]:
    """What is wrong with the file, and the first places; nothing if there is no problem."""
    if not problems:
        return []
    more = [f"... and {len(problems) - N_LISTED} more."] if len(problems) > N_LISTED else []
    return [f"{path} {what} ({len(problems)} in all):", *problems[:N_LISTED], *more]


def _find(answer: Answer, context: str) -> Answer | None:
    """The answer as the context has it at its start; None if it is not there.

    White space may differ, because it does in the published files, and no score depends on it.
    """
    if not 0 <= answer.start < len(context) or not answer.text.strip():
        return None
    if context.startswith(answer.text, answer.start):
        return answer
    words = re.compile(r"\s+".join(map(re.escape, answer.text.split())))
    at = re.compile(r"\s*").match(context, answer.start).end()
    match = words.match(context, at)
    return Answer(match.group(), at) if match else None


def _difference(answer: Answer, context: str) -> str:
    if not answer.text.strip():
        return f"the answer {answer.text!r} is blank"
    what = f"the answer {answer.text[:40]!r} is not at character {answer.start} of the {len(context)} of its context"
    if answer.start < 0:
        return what
    there = context[answer.start : answer.start + len(answer.text)]
    n_equal = next((i for i, (a, b) in enumerate(zip(answer.text, there, strict=False)) if a != b), len(there))
    return f"{what}: where it goes on with {answer.text[n_equal:][:20]!r}, there is {there[n_equal:][:20]!r}"
