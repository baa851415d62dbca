"""What is read of SQuAD files, and what is said of files that cannot be used."""

import json

import pytest

from common.errors import UserError
from tasks.squad.examples import Answer, SquadExample, read_squad

CONTEXT = "The cat sat\non the  mat, café."


def question(question_id="q1", text="Who sat?", answers=(("cat", 4),), **more):
    answers = [{"text": answer, "answer_start": start} for answer, start in answers]
    return {"id": question_id, "question": text, "answers": answers, **more}


def content(*questions, context=CONTEXT):
    return {"version": "1.1", "data": [{"title": "t", "paragraphs": [{"context": context, "qas": list(questions)}]}]}


@pytest.fixture
def write(tmp_path):
    def write(value, prefix=""):
        path = tmp_path / "squad.json"
        path.write_text(prefix + (value if isinstance(value, str) else json.dumps(value)), encoding="utf-8")
        return path

    return write


def refusal(path, version_2_with_negative=False, **options):
    with pytest.raises(UserError) as error:
        read_squad(path, version_2_with_negative, report=pytest.fail, **options)
    assert all(str(path) in sentence or sentence.startswith(("data", "...")) for sentence in error.value.sentences)
    return str(error.value)


def test_version_1(write):
    path = write(content(question(answers=[("cat", 4), ("The cat", 0)]), question("q2", "Where?", [("café", 25)])))
    assert read_squad(path, False) == [
        SquadExample("q1", "Who sat?", CONTEXT, (Answer("cat", 4), Answer("The cat", 0)), False),
        SquadExample("q2", "Where?", CONTEXT, (Answer("café", 25),), False),
    ]


def test_version_2(write):
    impossible = question("q2", answers=(), is_impossible=True, plausible_answers=[{"text": "mat", "answer_start": 20}])
    examples = read_squad(write(content(question(is_impossible=False), impossible, question("q3", answers=()))), True)
    assert [(example.answers, example.is_impossible) for example in examples] == [
        ((Answer("cat", 4),), False),
        ((), True),
        ((), True),  # as the official script judges it
    ]


def test_questions_of_a_paragraph_share_one_context(write):
    first, second = read_squad(write(content(question(), question("q2"))), False)
    assert first.context is second.context


def test_a_byte_order_mark_is_no_error(write):
    assert len(read_squad(write(content(question()), prefix="\ufeff"), False)) == 1


@pytest.mark.parametrize("context", ["", " \n ", "\u200b\u200d", "中国\u0301\n한국"])
def test_contexts_hold_anything(write, context):
    (example,) = read_squad(write(content(question(answers=()), context=context)), True)
    assert example.context == context


@pytest.mark.parametrize(
    ("answer", "start", "there"),
    [
        ("sat on", 8, "sat\non"),
        ("the mat", 15, "the  mat"),
        ("the\n\tmat", 15, "the  mat"),
        (" mat", 18, "mat"),
        ("mat ", 20, "mat"),
    ],
)
def test_white_space_in_answers_may_differ_and_the_context_holds(write, answer, start, there):
    (example,) = read_squad(write(content(question(answers=[(answer, start)]))), False)
    (found,) = example.answers
    assert found.text == there
    assert CONTEXT[found.start : found.start + len(found.text)] == there


@pytest.mark.parametrize(
    ("answer", "start", "said"),
    [
        ("cat", 5, "the answer 'cat' is not at character 5 of the 30 of its context: where it goes on with 'cat'"),
        ("cab", 4, "where it goes on with 'b', there is 't'"),
        ("cat", -26, "not at character -26"),  # Python would find it there
        ("cat", 1000, "there is ''"),
        ("cat", 10**30, "there is ''"),
        ("Cat", 4, "'Cat'"),
        ("catsat", 4, "goes on with 'sat', there is ' sa'"),
        ("", 4, "'' is blank"),
        ("\n", 11, "is blank"),
    ],
)
def test_answers_that_are_not_there(write, answer, start, said):
    path = write(content(question("q0"), question("q1", answers=[(answer, start)])))
    message = refusal(path)
    assert "(1 in all)" in message
    assert "--skip_bad_answers" in message
    assert "data[0].paragraphs[0].qas[1]: question 'q1'" in message
    assert said in message


def test_bad_answers_are_counted_listed_and_skipped_if_told(write):
    bad = [question(f"bad{i}", answers=[("dog", i)]) for i in range(7)]
    half = question("half", answers=[("dog", 4), ("cat", 4)])
    path = write(content(question(), *bad, half))
    sentences = refusal(path).splitlines()
    assert "(8 in all)" in sentences[0]
    assert ["bad" in sentence for sentence in sentences[1:6]] == [True] * 5
    assert sentences[6] == "... and 3 more."

    reported = []
    examples = read_squad(path, False, skip_bad_answers=True, report=reported.append)
    assert [example.id for example in examples] == ["q1", "half"]
    assert examples[1].answers == (Answer("cat", 4),)
    assert "(8 in all)" in reported[0]
    assert len(reported) == 7


def test_nothing_is_left(write):
    path = write(content(question(answers=[("dog", 0)])))
    with pytest.raises(UserError, match="holds no question"):
        read_squad(path, False, skip_bad_answers=True, report=lambda sentence: None)


def test_a_skipped_answer_does_not_make_a_question_unanswerable(write):
    path = write(content(question("q1", answers=[("dog", 0)]), question("q2")))
    examples = read_squad(path, True, skip_bad_answers=True, report=lambda sentence: None)
    assert [example.id for example in examples] == ["q2"]


def test_repeated_ids(write):
    path = write(content(question("a"), question("b"), question("a", "Again?")))
    message = refusal(path)
    assert "data[0].paragraphs[0].qas[2]: its id 'a' is that of data[0].paragraphs[0].qas[0] too." in message
    reported = []
    examples = read_squad(path, False, skip_bad_answers=True, report=reported.append)
    assert [(example.id, example.question) for example in examples] == [("a", "Who sat?"), ("b", "Who sat?")]
    assert "same id" in reported[0]


@pytest.mark.parametrize("more", [{"is_impossible": True}, {}])
def test_version_2_without_its_flag(write, more):
    message = refusal(write(content(question(), question("q2", answers=(), **more))))
    assert "--version_2_with_negative" in message
    assert "data[0].paragraphs[0].qas[1]: question 'q2' has no answer." in message


def test_files_that_are_only_to_be_answered(write):
    without = {"id": "q1", "question": "Who?"}
    path = write(content(without, question("q2", answers=())))
    assert "data[0].paragraphs[0].qas[0].answers is missing" in refusal(path)
    examples = read_squad(path, False, answers_required=False)
    assert [(example.answers, example.is_impossible) for example in examples] == [((), False), ((), False)]


def test_malformed_json_is_named_by_line_and_column(write):
    message = refusal(write('{"data": [\n  {"title": t}]}'))
    assert "line 2, column 13" in message


@pytest.mark.parametrize("text", ["", "  \n", "\ufeff"])
def test_empty_files(write, text):
    assert "is empty" in refusal(write(text))


def test_deeply_nested_json(write):
    assert "cannot be read" in refusal(write("[" * 200_000))


def test_other_encodings(tmp_path):
    path = tmp_path / "latin.json"
    path.write_bytes(json.dumps(content(question()), ensure_ascii=False).encode("latin-1"))
    assert "is not UTF-8" in refusal(path)


def test_missing_files_and_folders(tmp_path):
    assert "no such file" in refusal(tmp_path / "missing.json")
    assert "no such file" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([], 'not an object with a list "data"'),
        ({}, "data is missing; it must be a list"),
        ({"data": {}}, "data must be a list, and is {}"),
        ({"data": [3]}, "data[0] must be an object, and is 3"),
        ({"data": [{"paragraphs": None}]}, "data[0].paragraphs must be a list, and is null"),
        ({"data": [{"paragraphs": [{"qas": []}]}]}, "data[0].paragraphs[0].context is missing; it must be a string"),
        ({"data": [{"paragraphs": [{"context": "c"}]}]}, "data[0].paragraphs[0].qas is missing"),
        (content(question(1)), "qas[0].id must be a string, and is 1"),
        (content(question(text=None)), "qas[0].question must be a string, and is null"),
        (content({"id": "a", "question": "b", "answers": ["cat"]}), "qas[0].answers[0] must be an object"),
        (content(question(answers=[("cat", "4")])), 'answers[0].answer_start must be an integer, and is "4"'),
        (content(question(answers=[("cat", True)])), "answers[0].answer_start must be an integer, and is true"),
        (content(question(answers=[(None, 4)])), "answers[0].text must be a string"),
        (content(question(is_impossible="no")), 'is_impossible must be true or false, and is "no"'),
        (content(question(is_impossible=True)), "is_impossible is true, but there are answers"),
        ({"data": []}, "holds no question"),
        (content(), "holds no question"),
    ],
)
def test_wrong_structure_is_named_by_its_place(write, value, said):
    assert said in refusal(write(value), version_2_with_negative=True)


def test_all_that_is_wrong_is_said_at_once(write):
    path = write(content(question(1), question("a", answers=[("dog", 0)]), question("b"), question("b")))
    message = refusal(path)
    assert "format" in message
    assert "answer_start" in message
    assert "same id" in message


def test_the_real_sample(reference_data):
    # It holds all of it: 396 questions, among them 5 repeated ids and answers that are not there.
    path = reference_data / "squad-v1.1-sample.json"
    assert "same id" in refusal(path)
    examples = read_squad(path, False, skip_bad_answers=True, report=lambda sentence: None)
    raw = json.loads(path.read_text(encoding="utf-8"))
    contexts = {
        question["id"]: paragraph["context"]
        for article in reversed(raw["data"])
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    }
    assert 380 <= len(examples) <= 391
    for example in examples:
        assert example.context == contexts[example.id]
        assert example.answers
        for answer in example.answers:
            assert example.context[answer.start : answer.start + len(answer.text)] == answer.text
