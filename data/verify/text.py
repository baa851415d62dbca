"""What is counted in a text shard, and hashes of its documents' sentences, by which they are compared."""

import hashlib
import itertools
from pathlib import Path

import numpy as np

from data.masked_lm.shares import exceeds
from data.verify.report import WARNING, Findings, Offence

UNIT, REPEATED, IN_BOTH_SETS = "documents", "documents repeated", "training apart from test"
ONE_SENTENCE = "documents of one sentence"
CHECKS = (REPEATED, IN_BOTH_SETS, ONE_SENTENCE)
MAX_OF_ONE_SENTENCE = 0.5  # of the documents; encyclopedias have some, and what follows one is always random


def check_text(path: Path) -> Findings:
    """Reads a text shard: one sentence per line, an empty line after each document."""
    hashes, n_sentences, n_single, first = [], 0, 0, 0
    digest, is_empty = hashlib.blake2b(digest_size=8), True
    with open(path, "rb") as file:
        for line in itertools.chain(file, [b"\n"]):
            if sentence := line.strip():
                digest.update(sentence + b"\n")
                n_sentences, is_empty = n_sentences + 1, False
            elif not is_empty:
                hashes.append(int.from_bytes(digest.digest(), "little"))
                n_single, first = n_single + (n_sentences == first + 1), n_sentences
                digest, is_empty = hashlib.blake2b(digest_size=8), True
    findings = Findings(hashes=np.unique(np.array(hashes, dtype=np.uint64)))
    findings.count(documents=len(hashes), sentences=n_sentences, **{ONE_SENTENCE: n_single})
    if n_repeated := len(hashes) - len(findings.hashes):
        what = f"{n_repeated:,} of its documents are in it before"
        findings.offend(REPEATED, Offence(what, n_repeated, status=WARNING))
    check_shares(findings)
    return findings


def check_shares(findings: Findings) -> None:
    """Whether so many documents have one sentence that the others' ends were hardly found; of one file or several."""
    n, n_single = findings.counts.get("documents", 0), findings.counts.get(ONE_SENTENCE, 0)
    if exceeds(n_single, n, MAX_OF_ONE_SENTENCE):
        what = f"of {n:,} documents {n_single / n:.0%} have one sentence, so that most next sentences are random"
        findings.offend(ONE_SENTENCE, Offence(what, n_single, status=WARNING))
