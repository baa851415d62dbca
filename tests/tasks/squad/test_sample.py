"""The sample in SQuAD format: its structure, shares, answers in their contexts, and its contexts in the corpus."""

import html
import json
import re
from itertools import pairwise

import pytest
from paths import ROOT

from common.workers import workers
from data.corpus.extraction import extract_wikipedia, extracted_files

SAMPLE = ROOT / "data" / "sample"
FILES = [f"{part}-v{version}.json" for part in ("train", "dev") for version in ("1.1", "2.0")]


def load(name):
    return json.loads((SAMPLE / "squad" / name).read_text(encoding="utf-8"))


def paragraphs(content):
    return [(article["title"], paragraph) for article in content["data"] for paragraph in article["paragraphs"]]


def questions(content):
    return [(p["context"], qa) for _, p in paragraphs(content) for qa in p["qas"]]


def words(text):
    return re.findall(r"\w+", text.lower())


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """The paragraphs of the sample corpus, by title."""
    folder = tmp_path_factory.mktemp("corpus")
    with workers(1) as pool:
        extract_wikipedia(SAMPLE / "wikicorpus_sample.xml.bz2", folder / "extracted", pool)
    lines = [line for file in extracted_files(folder / "extracted") for line in file.open(encoding="utf-8")]
    articles = {article["title"]: article["text"].split("\n") for article in map(json.loads, lines)}
    return {title: {" ".join(html.unescape(p).split()) for p in text} for title, text in articles.items()}


@pytest.mark.parametrize("name", FILES)
def test_structure(name):
    content = load(name)
    version_2 = name.endswith("2.0.json")
    assert set(content) == {"version", "data"}
    assert content["version"] == ("v2.0" if version_2 else "1.1")
    titles = [article["title"] for article in content["data"]]
    assert len(set(titles)) == len(titles)
    assert not any(" " in title for title in titles)
    for article in content["data"]:
        assert set(article) == {"title", "paragraphs"}
        assert article["paragraphs"]
        for paragraph in article["paragraphs"]:
            assert set(paragraph) == {"context", "qas"}
            assert paragraph["qas"]
    for _, qa in questions(content):
        impossible = version_2 and qa["is_impossible"]
        keys = {"id", "question", "answers"}
        assert set(qa) == keys | ({"is_impossible"} if version_2 else set()) | (
            {"plausible_answers"} if impossible else set()
        )
        assert bool(qa["answers"]) != impossible
        assert all(set(answer) == {"text", "answer_start"} for answer in qa["answers"])


def test_ids_questions_and_contexts_are_unique():
    both = questions(load("train-v2.0.json")) + questions(load("dev-v2.0.json"))
    assert len({qa["id"] for _, qa in both}) == len(both)
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*-\d+", qa["id"]) for _, qa in both)
    assert len({tuple(words(qa["question"])) for _, qa in both}) == len(both)  # train and dev are disjoint too
    for name in FILES:
        contexts = [paragraph["context"] for _, paragraph in paragraphs(load(name))]
        assert len(set(contexts)) == len(contexts)


@pytest.mark.parametrize("name", FILES)
def test_answers_are_whole_words_of_their_contexts(name):
    for context, qa in questions(load(name)):
        for answer in qa["answers"] + qa.get("plausible_answers", []):
            start, end = answer["answer_start"], answer["answer_start"] + len(answer["text"])
            assert start >= 0
            assert context[start:end] == answer["text"] == answer["text"].strip() != ""
            assert not any(re.fullmatch(r"\w\w", context[max(at - 1, 0) : at + 1]) for at in (start, end)), qa


@pytest.mark.parametrize("name", FILES)
def test_golds_of_a_question_are_wordings_of_one_place(name):
    """But for one question, whose answer the context gives by name and again by a description."""
    apart = set()
    for _, qa in questions(load(name)):
        golds = [(answer["answer_start"], answer["text"]) for answer in qa["answers"]]
        assert len(set(golds)) == len(golds)
        spans = sorted((start, start + len(text)) for start, text in golds)
        apart |= {qa["id"] for (_, end), (start, _) in pairwise(spans) if start >= end}
    assert apart == ({"strait-of-gibraltar-dev-1"} if name.startswith("dev") else set())


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith("2.0.json")])
def test_questions_are_sentences(name):
    for _, qa in questions(load(name)):
        assert qa["question"].endswith("?")
        assert qa["question"][0].isupper()
        assert qa["question"] == " ".join(qa["question"].split())


def test_counts_and_shares():
    train, dev = (load(f"{part}-v2.0.json") for part in ("train", "dev"))
    assert len({title for title, _ in paragraphs(train) + paragraphs(dev)}) >= 25
    new = {title for title, _ in paragraphs(dev)} - {title for title, _ in paragraphs(train)}
    assert len(new) >= 3  # of the articles in dev, some are not in train
    for content, n_low, n_high, n_golds in ((train, 140, 180, {1}), (dev, 45, 60, {1, 2, 3})):
        qas = [qa for _, qa in questions(content)]
        assert n_low <= len(qas) <= n_high
        assert 0.2 <= sum(qa["is_impossible"] for qa in qas) / len(qas) <= 0.3
        assert all(qa["plausible_answers"] for qa in qas if qa["is_impossible"])
        assert {len(qa["answers"]) for qa in qas if not qa["is_impossible"]} == n_golds


def test_variety():
    """Question words, answers short and long, in other scripts, and such as occur twice, first or second."""
    both = questions(load("train-v2.0.json")) + questions(load("dev-v2.0.json"))
    starts = [qa["question"].split()[0] for _, qa in both]
    assert {"Who", "What", "When", "Where", "Which", "Why", "How"} <= set(starts)
    assert max(starts.count(word) for word in set(starts)) < 0.35 * len(starts)
    firsts = [(context, qa["answers"][0]) for context, qa in both if qa["answers"]]
    lengths = [len(answer["text"].split()) for _, answer in firsts]
    assert min(lengths) == 1
    assert max(lengths) >= 12
    assert 0.2 < lengths.count(1) / len(lengths) < 0.5
    assert sum(not answer["text"].isascii() for _, answer in firsts) >= 15
    repeated = [(c, answer) for c, answer in firsts if c.count(answer["text"]) > 1]
    assert len(repeated) >= 8
    assert sum(c.find(answer["text"]) != answer["answer_start"] for c, answer in repeated) >= 3


def test_second_occurrences_are_the_right_ones():
    """By hand: where the answer stands in its context."""
    around = {
        "danube-dev-1": "in the Black Sea.",
        "danube-6": "Below Vienna",
        "danube-dev-2": "Vienna and Bratislava",
        "lake-baikal-3": "only one, the Angara",
        "lake-baikal-4": "explains this by saying that Angara",
        "solar-eclipse-1": "the Sun is about four hundred times as wide",
        "solar-eclipse-2": "also about four hundred times as far",
        "fencing-1": "the sabre also with the edge",
    }
    found = {
        qa["id"]: (context, qa["answers"][0])
        for name in ("train-v2.0.json", "dev-v2.0.json")
        for context, qa in questions(load(name))
        if qa["id"] in around
    }
    assert set(found) == set(around)
    for name, (context, answer) in found.items():
        assert context.count(around[name]) == 1
        assert context.index(around[name]) + around[name].index(answer["text"]) == answer["answer_start"]


@pytest.mark.parametrize("name", FILES)
def test_contexts_are_paragraphs_of_the_corpus(name, corpus):
    for title, paragraph in paragraphs(load(name)):
        assert paragraph["context"] in corpus[title.replace("_", " ")]


@pytest.mark.parametrize("part", ["train", "dev"])
def test_version_1_has_the_answerable_questions(part):
    answerable = [(c, qa) for c, qa in questions(load(f"{part}-v2.0.json")) if not qa.pop("is_impossible")]
    assert questions(load(f"{part}-v1.1.json")) == answerable


@pytest.mark.parametrize("name", FILES)
def test_files_are_as_json_writes_them(name):
    """One value a line, so that a change shows as one."""
    text = (SAMPLE / "squad" / name).read_text(encoding="utf-8")
    assert text == json.dumps(json.loads(text), ensure_ascii=False, indent=1) + "\n"
    assert len(text) < 100_000


def test_nothing_is_from_squad(reference_data):
    """No question of a real file, and no run of eight words of one, neither in a context nor in a question."""
    files = list(reference_data.glob("squad*.json"))
    assert files
    real = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    ours = [load(f"{part}-v2.0.json") for part in ("train", "dev")]

    def texts(contents):
        return {
            tuple(words(text)) for content in contents for c, qa in questions(content) for text in (c, qa["question"])
        }

    def runs(some):
        return {text[i : i + 8] for text in some for i in range(len(text) - 7)}

    theirs, our = texts(real), texts(ours)
    assert len(theirs) > 100
    assert not theirs & our
    assert not runs(theirs) & runs(our)
