"""What is counted in a text shard, and hashes of its documents' sentences, by which they are compared."""

import hashlib
import itertools
from pathlib import Path

import numpy as np

from data.verify.report import WARNING, Findings, Offence

UNIT, REPEATED, IN_BOTH_SETS = "documents", "documents repeated", "training apart from test"
CHECKS = (REPEATED, IN_BOTH_SETS)


def check_text(path: Path) -> Findings:
    """Reads a text shard: one sentence per line, an empty line after each document."""
    hashes, n_sentences = [], 0
    digest, is_empty = hashlib.blake2b(digest_size=8), True
    with open(path, "rb") as file:
        for line in itertools.chain(file, [b"\n"]):
            if sentence := line.strip():
                digest.update(sentence + b"\n")
                n_sentences, is_empty = n_sentences + 1, False
            elif not is_empty:
                hashes.append(int.from_bytes(digest.digest(), "little"))
                digest, is_empty = hashlib.blake2b(digest_size=8), True
    findings = Findings(hashes=np.unique(np.array(hashes, dtype=np.uint64)))
    findings.count(documents=len(hashes), sentences=n_sentences)
    if n_repeated := len(hashes) - len(findings.hashes):
        what = f"{n_repeated:,} of its documents are in it before"
        findings.offend(REPEATED, Offence(what, n_repeated, status=WARNING))
    return findings
