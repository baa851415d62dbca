"""MLPerf's evaluation examples as plain as can be, written from the description of the order of random draws.

Tokens are strings, documents lists of lists of them, and nothing of the project is used but its tokenizer's output.
"""

import hashlib
import random


def shuffle_pairs(documents, vocabulary, length, most_masked, passes=10, seed=12345, short=0.1, share=0.15):
    """All examples: (tokens, segments, positions, labels, label of the next sentence), in the order of the output."""
    rng = random.Random(seed)
    documents = list(documents)
    rng.shuffle(documents)
    examples = []
    for _ in range(passes):
        for number in range(len(documents)):
            examples += document_examples(rng, documents, number, vocabulary, length, most_masked, short, share)
    rng.shuffle(examples)
    return examples


def document_examples(rng, documents, number, vocabulary, length, most_masked, short, share):
    room = length - 3
    goal = rng.randint(2, room) if rng.random() < short else room
    examples, waiting = [], list(documents[number])
    while waiting:
        chunk = []
        while waiting and sum(map(len, chunk)) < goal:
            chunk.append(waiting.pop(0))
        cut = 1 if len(chunk) < 2 else rng.randint(1, len(chunk) - 1)
        a, rest = joined(chunk[:cut]), chunk[cut:]
        if not rest or rng.random() < 0.5:
            label, waiting = 1, rest + waiting
            b = from_elsewhere(rng, documents, number, goal - len(a))
        else:
            label, b = 0, joined(rest)
        while len(a) + len(b) > room:
            side = b if len(b) >= len(a) else a
            if rng.random() < 0.5:
                side.pop(0)
            else:
                side.pop()
        examples.append((*masked(rng, a, b, vocabulary, most_masked, share), label))
    return examples


def joined(sentences):
    return [token for sentence in sentences for token in sentence]


def from_elsewhere(rng, documents, number, goal):
    tries = 0
    while True:
        other = rng.randint(0, len(documents) - 1)
        tries += 1
        if other != number or tries == 10:
            break
    start, b = rng.randint(0, len(documents[other]) - 1), []
    for sentence in documents[other][start:]:
        b = b + sentence
        if len(b) >= goal:
            break
    return b


def masked(rng, a, b, vocabulary, most_masked, share):
    tokens = ["[CLS]", *a, "[SEP]", *b, "[SEP]"]
    segments = [0] * (len(a) + 2) + [1] * (len(b) + 1)
    places = [i for i, token in enumerate(tokens) if token not in ("[CLS]", "[SEP]")]
    rng.shuffle(places)
    result, found = list(tokens), []
    for place in places[: min(most_masked, max(1, round(share * len(tokens))))]:
        if rng.random() < 0.8:
            result[place] = "[MASK]"
        elif rng.random() >= 0.5:
            result[place] = vocabulary[rng.randint(0, len(vocabulary) - 1)]
        found.append(place)
    found.sort()
    return result, segments, found, [tokens[place] for place in found]


def nvidia_md5(rows):
    """Of rows of ids."""
    digests = []
    for row in rows:
        digests.append(hashlib.md5(bytes(str([int(token) for token in row]), "ascii")).hexdigest())
    return hashlib.md5(bytes(str(digests), "ascii")).hexdigest()
