"""Text of any size for measurements: sentences of made words, as frequent as words in prose (Zipf's law).

There are far more words than a vocabulary has, so that both frequent ones, which are remembered, and rare ones, which
are cut into pieces, take their share of the time.
"""

import contextlib
import functools
import gzip
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet

CONSONANTS = ("b", "ch", "d", "f", "g", "l", "m", "n", "pr", "r", "s", "st", "t", "th", "w")
SYLLABLES = tuple(consonant + vowel for consonant in CONSONANTS for vowel in "aeiou")
N_WORDS = 300_000
WORDS_PER_BATCH = 2**18
KINDS = ("txt", "parquet", "jsonl", "jsonl.gz", "jsonl.zst")
ROWS_PER_GROUP = 1000  # as Hugging Face writes Parquet


def documents(n_bytes: int, seed: int = 0) -> Iterator[list[str]]:
    """Documents of some 30 sentences of some 20 words, as lists of sentences, of `n_bytes` bytes together."""
    rng = np.random.default_rng(seed)
    syllables = rng.integers(len(SYLLABLES), size=(N_WORDS, 5))
    n_syllables = np.clip(np.log(np.arange(N_WORDS) + 1) / 3 + rng.random(N_WORDS), 1, 5).astype(int)

    @functools.cache  # made when it is first drawn, as a small corpus has few
    def word(number: int) -> str:
        return "".join(SYLLABLES[i] for i in syllables[number, : n_syllables[number]].tolist())

    cumulative = np.cumsum(1 / (np.arange(N_WORDS) + 3))
    while n_bytes > 0:
        drawn = np.searchsorted(cumulative, rng.random(WORDS_PER_BATCH) * cumulative[-1]).tolist()
        start = 0
        while start < WORDS_PER_BATCH and n_bytes > 0:
            document = []
            for length in rng.integers(5, 36, size=rng.integers(5, 56)).tolist():
                if sentence := " ".join(map(word, drawn[start : start + length])):
                    document.append(sentence.capitalize() + ".")
                start += length
            n_bytes -= sum(map(len, document)) + len(document)
            yield document


def write_formatted(path: Path, n_bytes: int, seed: int = 0) -> None:
    """One document per line, as --action text_formatting makes it."""
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(" ".join(document) + "\n" for document in documents(n_bytes, seed))


def write_dump(path: Path, n_bytes: int, n_templates: int, seed: int = 0) -> None:
    """A MediaWiki export: templates of a kilobyte, then articles of `n_bytes` bytes that each call one of them."""
    template = "&lt;includeonly&gt;" + "{{{1|}}} of the {{{2|}}} " * 40 + "&lt;/includeonly&gt;"
    with open(path, "w", encoding="utf-8") as file:
        file.write("<mediawiki>\n<siteinfo>\n<base>https://made.example/wiki/Main</base>\n<namespaces>\n")
        file.write('<namespace key="10" case="first-letter">Template</namespace>\n</namespaces>\n</siteinfo>\n')
        for number in range(n_templates):
            file.write(_page(f"Template:Made {number}", 10, number, template))
        for number, document in enumerate(documents(n_bytes, seed)):
            call = f"{{{{Made {number % n_templates}|some|any}}}}" if n_templates else ""
            sections = (" ".join(document[i : i + 8]) for i in range(0, len(document), 8))
            text = "\n\n== Section ==\n".join(f"A [[word|made]] text. {section}" for section in sections)
            file.write(_page(f"Article {number}", 0, n_templates + number, call + text))
        file.write("</mediawiki>\n")


def write_kinds(folder: Path, n_bytes: int, n_files: int, seed: int = 0) -> int:
    """The same documents as files of all KINDS, below `folder` in one named for each; returns how many there are.

    In .txt a document is a line. Elsewhere it has paragraphs of eight sentences, and an empty line after each.
    """
    n_documents = 0
    schema = pyarrow.schema({"title": pyarrow.string(), "text": pyarrow.string()})
    for number in range(n_files):
        path = {kind: folder / kind / f"{number:03d}.{kind}" for kind in KINDS}
        for kind in KINDS:
            path[kind].parent.mkdir(parents=True, exist_ok=True)
        made = documents(n_bytes // n_files, seed + number)
        with contextlib.ExitStack() as stack:
            lines = [stack.enter_context(open(path[kind], "wb")) for kind in ("txt", "jsonl")]
            lines.append(stack.enter_context(gzip.open(path["jsonl.gz"], "wb", 6)))
            lines.append(stack.enter_context(pyarrow.CompressedOutputStream(str(path["jsonl.zst"]), "zstd")))
            parquet = stack.enter_context(pyarrow.parquet.ParquetWriter(path["parquet"], schema))
            while group := list(itertools.islice(made, ROWS_PER_GROUP)):
                texts = ["\n\n".join(" ".join(each[i : i + 8]) for i in range(0, len(each), 8)) for each in group]
                parquet.write_table(pyarrow.table({"title": [""] * len(texts), "text": texts}, schema))
                plain = "".join(" ".join(each) + "\n" for each in group).encode()
                as_json = "".join(json.dumps({"title": "", "text": text}) + "\n" for text in texts).encode()
                for file, content in zip(lines, (plain, as_json, as_json, as_json), strict=True):
                    file.write(content)
                n_documents += len(group)
    return n_documents


def _page(title: str, namespace: int, number: int, text: str) -> str:
    return (
        f"  <page>\n    <title>{title}</title>\n    <ns>{namespace}</ns>\n    <id>{number + 1}</id>\n    <revision>\n"
        f"      <id>{number + 1}</id>\n      <text>{text}</text>\n    </revision>\n  </page>\n"
    )
