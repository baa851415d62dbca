"""Windows against transformers' slow path and against the published algorithm, a loop over tokens and characters."""

import dataclasses
import threading

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers.data.processors import squad as transformers_squad
from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

import tasks.squad.features
from common.errors import UserError
from tasks.squad.examples import Answer, SquadExample, read_squad
from tasks.squad.features import SquadFeatures, features_key, squad_features
from tasks.squad.token_offsets import OffsetTokenizer
from tokenization import SPECIAL_TOKENS, BertTokenizer

PIECES = [*"abcdexyz.,-中国é", *(f"##{letter}" for letter in "abcdexyzé"), "ab", "##cd", "the", "cafe"]
FIELDS = [field.name for field in dataclasses.fields(SquadFeatures)]


@pytest.fixture(scope="module")
def vocab_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    path.write_text("\n".join([*SPECIAL_TOKENS, *PIECES]) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tokenizer(vocab_file):
    return BertTokenizer(vocab_file)


@pytest.fixture(scope="module")
def slow_tokenizer(vocab_file):
    return BertTokenizerLegacy(vocab_file, do_lower_case=True)


def make_example(context, question="ab?", answer=None, question_id="q"):
    """`answer` is (start, end) in characters."""
    answers = (Answer(context[answer[0] : answer[1]], answer[0]),) if answer else ()
    return SquadExample(question_id, question, context, answers)


def features_of(examples, tokenizer, lengths, **options):
    return squad_features(examples, tokenizer, *lengths, progress=False, **options)


def windows_of(features):
    """Each window as plain values."""
    for i in range(len(features)):
        part = slice(features.offsets[i], features.offsets[i + 1])
        yield {
            "example": int(features.example_index[i]),
            "ids": features.input_ids[part].tolist(),
            "n_before": int(features.question_lengths[i]),
            "places": list(zip(features.char_starts[part].tolist(), features.char_ends[part].tolist(), strict=True)),
            "is_max_context": features.is_max_context[part].tolist(),
            "answer": (int(features.start_positions[i]), int(features.end_positions[i])),
        }


def naive_windows(examples, tokenizer, max_seq_length, doc_stride, max_query_length):
    """google-research/bert's algorithm, with the answer's tokens by its characters."""
    for index, one in enumerate(examples):
        query = tokenizer.convert_tokens_to_ids(tokenizer.tokenize(one.question))[:max_query_length]
        context = OffsetTokenizer(tokenizer).encode(one.context)
        places = list(zip(context.starts.tolist(), context.ends.tolist(), strict=True))
        spans, start = [], 0
        while start < len(places):
            length = min(len(places) - start, max_seq_length - len(query) - 3)
            spans.append((start, length))
            if start + length == len(places):
                break
            start += min(length, doc_stride)
        answer_tokens = []
        for answer in one.answers[:1]:
            characters = range(answer.start, answer.start + len(answer.text))
            answer_tokens = [t for t, (a, b) in enumerate(places) if set(characters) & set(range(a, b))]
        for number, (start, length) in enumerate(spans):
            tokens = range(start, start + length)
            n_before = len(query) + 2
            speaks = []
            for token in tokens:
                best, best_score = None, None
                for other, (begin, n) in enumerate(spans):
                    if begin <= token < begin + n:
                        score = min(token - begin, begin + n - 1 - token) + 0.01 * n
                        if best is None or score > best_score:
                            best, best_score = other, score
                speaks.append(best == number)
            inside = answer_tokens and answer_tokens[0] in tokens and answer_tokens[-1] in tokens
            ids = [tokenizer.cls_token_id, *query, tokenizer.sep_token_id]
            yield {
                "example": index,
                "ids": [*ids, *context.ids[start : start + length].tolist(), tokenizer.sep_token_id],
                "n_before": n_before,
                "places": [*[(-1, -1)] * n_before, *places[start : start + length], (-1, -1)],
                "is_max_context": [*[False] * n_before, *speaks, False],
                "answer": tuple(answer_tokens[i] - start + n_before for i in (0, -1)) if inside else (0, 0),
            }


def transformers_windows(examples, slow_tokenizer, max_seq_length, doc_stride, max_query_length):
    transformers_squad.squad_convert_example_to_features_init(slow_tokenizer)
    for index, one in enumerate(examples):
        answer = one.answers[0] if one.answers else Answer(None, None)
        theirs = transformers_squad.SquadExample(
            one.id, one.question, one.context, answer.text, answer.start, "", is_impossible=not one.answers
        )
        windows = transformers_squad.squad_convert_example_to_features(
            theirs, max_seq_length, doc_stride, max_query_length, "do_not_pad", is_training=True
        )
        for window in windows:
            n_before = window.token_type_ids.index(1)
            assert window.token_type_ids == [0] * n_before + [1] * (len(window.input_ids) - n_before)
            yield {
                "example": index,
                "ids": window.input_ids,
                "n_before": n_before,
                "is_max_context": [window.token_is_max_context.get(i, False) for i in range(len(window.input_ids))],
                "answer": (window.start_position, window.end_position),
            }


def without_places(windows):
    return [{name: value for name, value in window.items() if name != "places"} for window in windows]


WORDS = st.sampled_from(
    ["ab", "abcd", "the", "x", "Café", "cafe\u0301", "中国", "a-b", "x.", "ab,ab", "qq", "a\u200bb", "the.the", "é"]
)
SPACES = st.sampled_from([" ", "  ", "\n", " \t", "\u2003"])
QUESTIONS = st.lists(WORDS, max_size=12).map(" ".join)


@st.composite
def any_examples(draw):
    """Answers of any characters, contexts of any words, some empty."""
    examples = []
    for number in range(draw(st.integers(1, 4))):
        context = "".join(draw(st.lists(st.one_of(WORDS, SPACES, st.text(max_size=3)), max_size=40)))
        answer = None
        if context and draw(st.booleans()):
            start = draw(st.integers(0, len(context) - 1))
            answer = start, draw(st.integers(start + 1, min(len(context), start + 12)))
        examples.append(make_example(context, draw(QUESTIONS), answer, f"q{number}"))
    return examples


@st.composite
def word_examples(draw):
    """Answers of whole words: there the published code's search finds what the characters say."""
    words = draw(st.lists(WORDS, min_size=1, max_size=40))
    spaces = draw(st.lists(st.sampled_from([" ", "\n", "\t "]), min_size=len(words), max_size=len(words)))
    context, places = "", []
    for word, space in zip(words, spaces, strict=True):
        places.append((len(context), len(context) + len(word)))
        context += word + space
    first = draw(st.integers(0, len(words) - 1))
    last = draw(st.integers(first, min(len(words) - 1, first + 5)))
    question = draw(st.lists(WORDS, min_size=1, max_size=12).map(" ".join))
    return make_example(context, question, draw(st.sampled_from([None, (places[first][0], places[last][1])])))


LENGTHS = st.tuples(st.integers(12, 40), st.integers(1, 40), st.integers(0, 8))


@given(examples=any_examples(), lengths=LENGTHS)
@example(examples=[make_example("ab " * 30, answer=(27, 35))], lengths=(14, 3, 4))  # repeated, cut by doc_stride
@example(examples=[make_example(""), make_example("x", answer=(0, 1))], lengths=(12, 1, 0))
@example(examples=[make_example("ab " * 214)], lengths=(217, 200, 4))  # the last window is short, its length counts
@settings(deadline=None, max_examples=200)
def test_windows_are_those_of_the_published_algorithm(tokenizer, examples, lengths):
    expected = list(naive_windows(examples, tokenizer, *lengths))
    if not expected:
        with pytest.raises(UserError, match="text in it"):
            features_of(examples, tokenizer, lengths)
        return
    features = features_of(examples, tokenizer, lengths)
    assert list(windows_of(features)) == expected
    assert features.lengths.max() <= lengths[0]


@given(one=word_examples(), lengths=LENGTHS)
@settings(deadline=None, max_examples=100)
def test_windows_are_those_of_transformers(tokenizer, slow_tokenizer, one, lengths):
    # Its slow path has no strides longer than a window, no questions without tokens, and does not cut them to none.
    max_seq_length, doc_stride, max_query_length = lengths
    max_query_length = max(1, max_query_length)
    lengths = max_seq_length, min(doc_stride, max_seq_length - max_query_length - 3), max_query_length
    expected = list(transformers_windows([one], slow_tokenizer, *lengths))
    assert without_places(windows_of(features_of([one], tokenizer, lengths))) == expected


@pytest.mark.parametrize("lengths", [(384, 128, 64), (128, 32, 12)])
def test_windows_of_real_questions_are_those_of_transformers(reference_data, lengths):
    vocab_file = reference_data / "bert-base-uncased-vocab.txt"
    examples = read_squad(reference_data / "squad-v1.1-sample.json", False, True, report=lambda sentence: None)
    expected = list(transformers_windows(examples, BertTokenizerLegacy(vocab_file, do_lower_case=True), *lengths))
    features = features_of(examples, BertTokenizer(vocab_file), lengths)
    assert len(features) > len(examples)
    assert without_places(windows_of(features)) == expected


def test_worked_out_by_hand(tokenizer):
    #         0    5  8  11 14 17
    context = "abcd x. 中国 Café-y"
    examples = [make_example(context, "the ab x", (11, 15)), make_example(context, "the", (2, 6))]
    features = features_of(examples, tokenizer, (9, 2, 2))
    tokens = [tokenizer.convert_ids_to_tokens(window["ids"]) for window in windows_of(features)]
    # ab ##cd x . 中 国 cafe - y, four at a time beside the first question, five beside the second
    assert tokens[:4] == [
        ["[CLS]", "the", "ab", "[SEP]", "ab", "##cd", "x", ".", "[SEP]"],
        ["[CLS]", "the", "ab", "[SEP]", "x", ".", "中", "国", "[SEP]"],
        ["[CLS]", "the", "ab", "[SEP]", "中", "国", "cafe", "-", "[SEP]"],
        ["[CLS]", "the", "ab", "[SEP]", "cafe", "-", "y", "[SEP]"],
    ]
    assert tokens[4] == ["[CLS]", "the", "[SEP]", "ab", "##cd", "x", ".", "中", "[SEP]"]
    assert features.example_index.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert features.start_positions.tolist() == [0, 0, 6, 4, 4, 0, 0]  # Café, twice; then "cd x", in one window only
    assert features.end_positions.tolist() == [0, 0, 6, 4, 5, 0, 0]
    third = list(windows_of(features))[2]
    assert third["places"] == [(-1, -1)] * 4 + [(8, 9), (9, 10), (11, 15), (15, 16), (-1, -1)]
    # 国 is second of four here and last of four before; cafe third of four here and first of three after.
    assert third["is_max_context"] == [False] * 4 + [False, True, True, False, False]


def test_an_answer_within_a_word_is_its_tokens_and_the_right_one_of_several(tokenizer):
    # The published search takes the whole word for "cd", and the first "ab" for the second.
    cd, second_ab = make_example("x abcd", "x", (4, 6)), make_example("ab,ab", "x", (3, 5))
    windows = list(windows_of(features_of([cd, second_ab], tokenizer, (20, 5, 5))))
    assert [window["answer"] for window in windows] == [(5, 5), (5, 5)]


def test_the_first_answer_counts(tokenizer):
    one = SquadExample("q", "x", "ab x ab", (Answer("x", 3), Answer("ab", 0)))
    (window,) = windows_of(features_of([one], tokenizer, (20, 5, 5)))
    assert window["answer"] == (4, 4)


@pytest.mark.parametrize("n_processes", [2, 3])
def test_the_number_of_processes_changes_nothing(tokenizer, monkeypatch, n_processes):
    monkeypatch.setattr(tasks.squad.features, "EXAMPLES_PER_TASK", 3)
    examples = [make_example(f"ab {'x ' * (i // 2)}", "the x", (0, 2), f"q{i}") for i in range(20)]
    alone = features_of(examples, tokenizer, (12, 4, 3))
    monkeypatch.setattr(tasks.squad.features, "EXAMPLES_PER_TASK", 4)
    together = features_of(examples, tokenizer, (12, 4, 3), n_processes=n_processes)
    assert_equal(alone, together)
    assert list(windows_of(alone)) == list(naive_windows(examples, tokenizer, 12, 4, 3))


def assert_equal(first, second):
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name), strict=True)


def test_a_context_is_tokenized_once(tokenizer, monkeypatch):
    encoded = []
    encode = OffsetTokenizer.encode
    monkeypatch.setattr(OffsetTokenizer, "encode", lambda self, text: encoded.append(text) or encode(self, text))
    features_of([make_example("ab"), make_example("ab"), make_example("x"), make_example("x")], tokenizer, (20, 5, 5))
    assert encoded == ["ab", "x"]


def test_types(tokenizer):
    features = features_of([make_example("ab")], tokenizer, (20, 5, 5))
    types = {name: getattr(features, name).dtype.name for name in FIELDS}
    assert types == {
        **dict.fromkeys(["input_ids", "char_starts", "char_ends", "question_lengths", "example_index"], "int32"),
        **dict.fromkeys(["offsets", "start_positions", "end_positions"], "int64"),
        "is_max_context": "bool",
    }


EXAMPLES = [make_example("ab x the", "x", (3, 4)), make_example("中国 " * 9, "the", None, "q2")]
SETTINGS = (16, 4, 3)


def cached(folder, tokenizer, examples=EXAMPLES):
    reported = []
    options = {"cache_dir": folder, "report": reported.append, "progress": False}
    features = squad_features(examples, tokenizer, *SETTINGS, **options)
    return features, reported


def test_the_cache_is_read_the_second_time(tokenizer, tmp_path, monkeypatch):
    folder = tmp_path / "new" / "cache"
    made, _ = cached(folder, tokenizer)
    assert_equal(made, features_of(EXAMPLES, tokenizer, SETTINGS))
    monkeypatch.setattr(tasks.squad.features, "OffsetTokenizer", None)  # to tokenize again would fail
    read, reported = cached(folder, tokenizer)
    assert_equal(made, read)
    assert len(reported) == 1
    assert f"{len(made)} windows, made before" in reported[0]


def damaged(content):
    middle = len(content) // 2
    yield b""
    yield content[:middle]
    yield content[:-10]
    yield b"not a zip file at all"
    for place in range(0, len(content), 97):
        yield content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :]


def test_a_damaged_cache_is_reported_and_made_anew(tokenizer, tmp_path):
    made, _ = cached(tmp_path, tokenizer)
    (path,) = tmp_path.glob("*.npz")
    content = path.read_bytes()
    n_reported = 0
    for wrong in damaged(content):
        path.write_bytes(wrong)
        features, reported = cached(tmp_path, tokenizer)
        assert_equal(features, made)
        n_reported += "is damaged" in reported[0]
        if len(wrong) != len(content):
            assert "is damaged" in reported[0]
            assert path.read_bytes() == content
    assert n_reported > 5


def test_the_key_is_of_everything_that_shapes_the_features(tokenizer, vocab_file, tmp_path, monkeypatch):
    other_vocabulary = tmp_path / "vocab.txt"
    other_vocabulary.write_text(vocab_file.read_text(encoding="utf-8") + "more\n", encoding="utf-8")
    first = EXAMPLES[0]
    shapings = [
        (EXAMPLES, tokenizer, 16, 4, 3),
        (EXAMPLES, tokenizer, 17, 4, 3),
        (EXAMPLES, tokenizer, 16, 5, 3),
        (EXAMPLES, tokenizer, 16, 4, 2),
        (EXAMPLES, BertTokenizer(vocab_file, do_lower_case=False), 16, 4, 3),
        (EXAMPLES, BertTokenizer(other_vocabulary), 16, 4, 3),
        (EXAMPLES[:1], tokenizer, 16, 4, 3),
        (EXAMPLES[::-1], tokenizer, 16, 4, 3),
        *[
            ([dataclasses.replace(first, **change), *EXAMPLES[1:]], tokenizer, 16, 4, 3)
            for change in (
                {"question": "y"},
                {"context": first.context + " "},
                {"answers": (Answer("x", 2),)},
                {"answers": ()},
            )
        ],
    ]
    keys = [features_key(*shaping) for shaping in shapings]
    assert keys[0] == features_key(list(EXAMPLES), BertTokenizer(vocab_file), 16, 4, 3)
    monkeypatch.setattr(tasks.squad.features, "FORMAT_VERSION", tasks.squad.features.FORMAT_VERSION + 1)
    keys.append(features_key(*shapings[0]))
    assert len(set(keys)) == len(keys)


def test_several_ranks_make_them_once(tokenizer, tmp_path):
    results = []
    ranks = [threading.Thread(target=lambda: results.append(cached(tmp_path, tokenizer))) for _ in range(6)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    assert sum("holds the features now" in reported[-1] for _, reported in results) == 1
    assert len(results) == 6
    for features, _ in results:
        assert_equal(features, results[0][0])


def test_a_cache_folder_that_is_a_file(tokenizer, tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="--skip_cache"):
            cached(folder, tokenizer)
