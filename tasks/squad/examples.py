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
    reader = _Reader(path, version_2_with_negative, skip_bad_answers, answers_required)
    examples = reader.read(_load_json(path))
    if skip_bad_answers:
        for sentence in _sentences(path, reader.bad_answers, "has answers that are not where they should be; skipped"):
            report(sentence)
        for sentence in _sentences(path, reader.repeated_ids, "has questions with the same id; only the first is kept"):
            report(sentence)
        if answers_required:
            examples = [example for example in examples if example.id not in reader.ids_left_without_answer]
    if not examples:
        raise UserError(f"{path}: holds no question that can be used", "give a SQuAD file with questions")
    return examples


def _load_json(path: Path) -> object:
    if not path.is_file():
        raise UserError(f"{path}: no such file", "give the path of a SQuAD .json file")
    return read_json(path, "SQuAD file", "repair it or get it again", object)


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


class _Reader:
    """Turns the file's content into examples, and notes all that is wrong with it, by place."""

    def __init__(
        self, path: Path, version_2_with_negative: bool, skip_bad_answers: bool, answers_required: bool
    ) -> None:
        self.path = path
        self.version_2_with_negative = version_2_with_negative
        self.skip_bad_answers = skip_bad_answers
        self.answers_required = answers_required
        self.wrong_places: list[str] = []
        self.unanswered: list[str] = []
        self.repeated_ids: list[str] = []
        self.bad_answers: list[str] = []
        self.ids_left_without_answer: set[str] = set()
        self.place_of_id: dict[str, str] = {}

    def read(self, content: object) -> list[SquadExample]:
        """Raises UserError for all that is wrong but what is to be skipped, which is noted."""
        if not isinstance(content, dict):
            raise UserError(f'{self.path}: is not an object with a list "data"', "give a SQuAD .json file")
        examples = []
        for article, article_place in self._objects(content, "data", ""):
            for paragraph, place in self._objects(article, "paragraphs", article_place):
                context = self._member(paragraph, "context", str, place)
                for question, question_place in self._objects(paragraph, "qas", place):
                    example = self._example(question, context, question_place) if context is not None else None
                    if example is not None:
                        examples.append(example)
        self._raise_if_wrong()
        return examples

    def _member(self, parent: dict, key: str, kind: type, place: str) -> Any:
        """parent[key], or None, noted, if it is not of this kind. `place` is that of `parent`."""
        at = f"{place}.{key}" if place else key
        value = parent.get(key)
        if key not in parent:
            self.wrong_places.append(f"{at} is missing; it must be {KIND_NAMES[kind]}.")
        elif not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            self.wrong_places.append(f"{at} must be {KIND_NAMES[kind]}, and is {json.dumps(value)[:60]}.")
        else:
            return value
        return None

    def _objects(self, parent: dict, key: str, place: str) -> Iterator[tuple[dict, str]]:
        """The objects in the list parent[key], with their places."""
        for i, item in enumerate(self._member(parent, key, list, place) or ()):
            at = f"{place}.{key}[{i}]" if place else f"{key}[{i}]"
            if isinstance(item, dict):
                yield item, at
            else:
                self.wrong_places.append(f"{at} must be an object, and is {json.dumps(item)[:60]}.")

    def _example(self, question: dict, context: str, place: str) -> SquadExample | None:
        n_wrong = len(self.wrong_places)
        question_id = self._member(question, "id", str, place)
        text = self._member(question, "question", str, place)
        is_impossible = "is_impossible" in question and self._member(question, "is_impossible", bool, place)
        answers = []
        if self.answers_required or "answers" in question:
            for answer, answer_place in self._objects(question, "answers", place):
                answer_text = self._member(answer, "text", str, answer_place)
                answers.append(Answer(answer_text, self._member(answer, "answer_start", int, answer_place)))
        if len(self.wrong_places) > n_wrong:
            return None

        first = self.place_of_id.setdefault(question_id, place)
        if first != place:
            self.repeated_ids.append(f"{place}: its id {question_id!r} is that of {first} too.")
            return None
        if is_impossible and answers:
            self.wrong_places.append(f"{place}: is_impossible is true, but there are answers.")
        has_none = is_impossible or not answers
        if has_none and not self.version_2_with_negative and (is_impossible or self.answers_required):
            self.unanswered.append(f"{place}: question {question_id!r} has no answer.")
        found = [_find(answer, context) for answer in answers]
        for answer, there in zip(answers, found, strict=True):
            if there is None:
                self.bad_answers.append(f"{place}: question {question_id!r}: {_difference(answer, context)}.")
        good = tuple(answer for answer in found if answer is not None)
        if answers and not good:
            self.ids_left_without_answer.add(question_id)
        # Like the official script, which asks of a question whether it has answers.
        is_impossible = is_impossible or (self.version_2_with_negative and self.answers_required and not answers)
        return SquadExample(question_id, text, context, good, is_impossible)

    def _raise_if_wrong(self) -> None:
        kinds = [
            (self.wrong_places, "is not in SQuAD's format; repair it"),
            (self.unanswered, "has questions without an answer; give --version_2_with_negative, or remove them"),
        ]
        if not self.skip_bad_answers:
            kinds += [
                (
                    self.bad_answers,
                    "has answers that are not in the context where answer_start says; repair them, or skip them with "
                    "--skip_bad_answers",
                ),
                (
                    self.repeated_ids,
                    "has questions with the same id, by which predictions are told apart; rename them, or skip all but "
                    "the first with --skip_bad_answers",
                ),
            ]
        sentences = [sentence for problems, what in kinds for sentence in _sentences(self.path, problems, what)]
        if sentences:
            raise UserError(sentences)
