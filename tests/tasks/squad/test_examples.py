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
    assert all(str(path) in sentence for sentence in error.value.sentences)
    return str(error.value)


def test_version_1(write):
    path = write(content(question(answers=[("cat", 4), ("The cat", 0)]), question("q2", "Where?", [("café", 25)])))
    assert read_squad(path, False) == [
        SquadExample("q1", "Who sat?", CONTEXT, (Answer("cat", 4), Answer("The cat", 0))),
        SquadExample("q2", "Where?", CONTEXT, (Answer("café", 25),)),
    ]


def test_version_2(write):
    impossible = question("q2", answers=(), is_impossible=True, plausible_answers=[{"text": "mat", "answer_start": 20}])
    examples = read_squad(write(content(question(is_impossible=False), impossible, question("q3", answers=()))), True)
    assert [example.answers for example in examples] == [(Answer("cat", 4),), (), ()]


def test_what_annotation_tools_write(write):
    none, elsewhere = [("", -1)], [{"text": " "}, {"text": "", "answer_start": None}]
    questions = [
        question(4711),
        question("q2", answers=none, is_impossible=True),
        question("q3", answers=none),
        question("q4", is_impossible=True),
        question("q5", is_impossible=1),
        question("q6", is_impossible=0),
        question("q7", answers=[("cat", 4.0)]),
        question("q8") | {"answers": elsewhere},
        question("q9", is_impossible=True) | {"answers": None},
        question("q10", is_impossible=None),
        {"question": "Who sat?", "answers": [{"text": "cat", "answer_start": 4}]},
    ]
    found = {example.id: example.answers for example in read_squad(write(content(*questions)), True)}
    cat = (Answer("cat", 4),)
    with_cat = ("4711", "q6", "q7", "q10", "data[0].paragraphs[0].qas[10]")
    assert found == dict.fromkeys(with_cat, cat) | dict.fromkeys(("q2", "q3", "q4", "q5", "q8", "q9"), ())


def test_rows_and_columns_of_hugging_faces_datasets(write):
    answers = {"text": ["cat", "The cat"], "answer_start": [4, 0]}
    row = {"id": "q1", "title": "t", "context": CONTEXT, "question": "Who sat?", "answers": answers}
    none = row | {"id": "q2", "answers": {"text": [], "answer_start": []}}
    rows, inside = read_squad(write({"data": [row, none]}), True), read_squad(write(content(row)), True)
    cats = SquadExample("q1", "Who sat?", CONTEXT, (Answer("cat", 4), Answer("The cat", 0)))
    assert (rows, inside) == ([cats, SquadExample("q2", "Who sat?", CONTEXT)], [cats])
    message = refusal(write({"data": [row | {"answers": {"text": ["cat", "mat"], "answer_start": [4]}}, {"id": "q3"}]}))
    assert "data[0].answers[1].answer_start is null and must be an integer" in message
    assert "data[1].paragraphs is missing" in message


def test_files_to_score_need_no_places(write):
    answers = [{"text": "dog", "answer_start": 900}, {"text": "cat"}, {"text": "mat", "answer_start": None}]
    path = write(content({"id": "q1", "question": "Who?", "answers": answers}))
    (example,) = read_squad(path, False, use="score")
    assert example.answers == (Answer("dog"), Answer("cat"), Answer("mat"))
    assert "questions without an answer" in refusal(write(content(question(answers=()))), use="score")


def test_scores_ask_for_answers_as_the_official_script_does(write):
    path = write(content(question(is_impossible=True), {"id": "q2", "question": "Who?", "is_impossible": True}))
    assert [example.answers for example in read_squad(path, True, use="score")] == [(Answer("cat"),), ()]


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
    ("answer", "start"),
    [
        ("cat", 5),
        ("cab", 4),
        ("cat", -26),  # Python would find it there
        ("cat", 1000),
        ("cat", 10**30),
        ("cat", 4.5),
        ("cat", float("inf")),
        ("Cat", 4),
        ("catsat", 4),
        ("", 4),
        ("\n", 11),
    ],
)
def test_answers_that_are_not_there(write, answer, start):
    path = write(content(question("q0"), question("q1", answers=[(answer, start)])))
    message = refusal(path)
    assert "has 1 answers that are not where answer_start says" in message
    assert "--skip_bad_answers" in message
    assert "data[0].paragraphs[0].qas[1]: question 'q1'" in message
    assert f"the answer {answer!r} is not at character {start}" in message


def test_bad_answers_are_counted_listed_and_skipped_if_told(write):
    bad = [question(f"bad{i}", answers=[("dog", i)]) for i in range(7)]
    half = question("half", answers=[("dog", 4), ("cat", 4)])
    path = write(content(question(), *bad, half))
    lines = refusal(path).splitlines()
    assert "has 8 answers" in lines[0]
    assert ["bad" in line for line in lines[1:6]] == [True] * 5
    assert lines[6].startswith("  ... and 3 more; repair them")

    reported = []
    examples = read_squad(path, False, skip_bad_answers=True, report=reported.append)
    assert [example.id for example in examples] == ["q1", "half"]
    assert examples[1].answers == (Answer("cat", 4),)
    (told,) = reported
    assert "has 8 answers" in told


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
    message = refusal(path, use="answer")
    assert "data[0].paragraphs[0].qas[2]: its id 'a' is that of data[0].paragraphs[0].qas[0] too" in message
    reported = []
    examples = read_squad(path, False, True, reported.append, use="score")
    assert [(example.id, example.question) for example in examples] == [("a", "Who sat?"), ("b", "Who sat?")]
    assert "ids of several questions" in reported[0]
    assert [example.question for example in read_squad(path, False)] == ["Who sat?", "Who sat?", "Again?"]


@pytest.mark.parametrize("more", [{"is_impossible": True}, {}])
def test_version_2_without_its_flag(write, more):
    message = refusal(write(content(question(), question("q2", answers=(), **more))))
    assert "--version_2_with_negative" in message
    assert "data[0].paragraphs[0].qas[1]: question 'q2' has no answer" in message


def test_files_that_are_only_to_be_answered(write):
    without = {"id": "q1", "question": "Who?"}
    path = write(content(without, question("q2", answers=[("dog", -1), ("", -1)], is_impossible=True)))
    assert "data[0].paragraphs[0].qas[0].answers is missing" in refusal(path)
    assert [example.answers for example in read_squad(path, False, use="answer")] == [(), ()]


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
    assert "No such file" in refusal(tmp_path / "missing.json")
    assert "Is a directory" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([], "holds no JSON object"),
        ({}, "data is missing and must be a list"),
        ({"data": {}}, "data is {} and must be a list"),
        ({"data": [3]}, "data[0] is 3 and must be an object"),
        ({"data": [{"paragraphs": None}]}, "data[0].paragraphs is null and must be a list"),
        ({"data": [{"paragraphs": [{"qas": []}]}]}, "data[0].paragraphs[0].context is missing and must be a string"),
        ({"data": [{"paragraphs": [{"context": "c"}]}]}, "data[0].paragraphs[0].qas is missing"),
        (content(question(text=None)), "qas[0].question is missing and must be a string"),
        (content(question(text=7)), "qas[0].question is 7 and must be a string"),
        (content({"id": "a", "question": "b", "answers": ["cat"]}), 'qas[0].answers[0] is "cat" and must be an object'),
        (content(question(answers=[("cat", "4")])), 'answers[0].answer_start is "4" and must be an integer'),
        (content(question(answers=[("cat", True)])), "answers[0].answer_start is true and must be an integer"),
        (content(question(answers=[(None, 4)])), "answers[0].text is null and must be a string"),
        (content(question(is_impossible="no")), 'is_impossible is "no" and must be true or false'),
        ({"data": []}, "holds no question"),
        (content(), "holds no question"),
    ],
)
def test_wrong_structure_is_named_by_its_place(write, value, said):
    assert said in refusal(write(value), version_2_with_negative=True)


def test_all_that_is_wrong_is_said_at_once(write):
    path = write(content(question(text=None), question("a", answers=[("dog", 0)]), question("b", answers=())))
    message = refusal(path)
    assert "format" in message
    assert "answer_start" in message
    assert "questions without an answer" in message


def test_the_real_sample(reference_data):
    # It holds all of it: 396 questions, among them 5 repeated ids and answers that are not there.
    path = reference_data / "squad-v1.1-sample.json"
    assert "ids of several questions" in refusal(path)
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
