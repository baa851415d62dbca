"""GLUE's tasks, each to a folder in the layout of the official files.

Everything is fetched from the addresses that the published download scripts name, and no script is run. Each file has
one size and one SHA-256, which TensorFlow's and Hugging Face's catalogues of datasets agree on. GLUE may not hand out
MRPC: its training and development files are cut out of Microsoft's training file, by GLUE's list of pairs.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.addresses import below, shown
from common.errors import UserError
from common.text_files import read_text
from data.downloaders.folder import checked_file, link_or_copy
from file_utils import sha256_of, unpack

# Task, name, bytes and SHA-256 of each file.
PUBLISHED = (
    ("cola", "CoLA.zip", 376_971, "f212fcd832b8f7b435fb991f101abf89f96b933ab400603bf198960dfc32cbff"),
    ("sst-2", "SST-2.zip", 7_439_277, "d67e16fb55739c1b32cdce9877596db1c127dc322d93c082281f64057c16deaa"),
    ("sts-b", "STS-B.zip", 802_872, "e60a6393de5a8b5b9bac5020a1554b54e3691f9d600b775bd131e613ac179c85"),
    ("qqp", "QQP-clean.zip", 41_696_084, "40e7c862c04eb26ee04b67fd900e76c45c6ba8e6d8fab4f8f1f8072a1a3fbae0"),
    ("mnli", "MNLI.zip", 312_783_507, "e7c1d896d26ed6caf700110645df426cc2d8ebf02a5ab743d5a5c68ac1c83633"),
    ("qnli", "QNLIv2.zip", 10_627_589, "e634e78627a29adaecd4f955359b22bf5e70f2cbd93b493f2d624138a0c0e5f5"),
    ("rte", "RTE.zip", 697_150, "6bf86de103ecd335f3441bd43574d23fef87ecc695977a63b82d5efb206556ee"),
    ("wnli", "WNLI.zip", 28_999, "ae0e8e4d16f4d46d4a0a566ec7ecceccfd3fbfaa4a7a4b4e02848c0f2561ac46"),
    ("ax", "AX.tsv", 222_257, "0e13510b1bb14436ff7e2ee82338f0efb0133ecf2e73507a697dc210db3f05fd"),
    ("mrpc", "msr_paraphrase_train.txt", 1_047_044, "60a9b09084528f0673eedee2b69cb941920f0b8cd0eeccefc464a98768457f89"),
    ("mrpc", "msr_paraphrase_test.txt", 441_275, "a04e271090879aaba6423d65b94950c089298587d9c084bf9cd7439bd785f784"),
    ("mrpc", "mrpc_dev_ids.tsv", 6_222, "971d7767d81b997fd9060ade0ec23c4fc31cbb226a55d1bd4a1bac474eb81dc7"),
)
HEADER = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"


def take_glue(new: Path, pieces: Path, task: str, folder: str, mirror: str) -> Mapping[str, Any]:
    """Fill the folder `new` with a task's files; see `download_folder`."""
    files = [_fetched(*row, pieces, mirror) for name, *row in PUBLISHED if name == task]
    if task == "mrpc":
        _cut_mrpc(new, *files)
    elif task == "ax":
        link_or_copy(*files, new / "diagnostic.tsv")
    else:  # an archive of a folder
        unpacked = new.parent / "unpacked"
        # What lies in further folders is what the files were made from, of MNLI a gigabyte.
        unpack(*files, unpacked, leave_out=lambda member, problem: member.count("/") != 1)
        for path in sorted((unpacked / folder).iterdir()):
            os.replace(path, new / path.name)
    return {}


def _fetched(name: str, n_bytes: int, sha256: str, pieces: Path, mirror: str) -> Path:
    """Where a file is that has the published size and sum. Raises UserError where it has not."""
    folder = "senteval/senteval_data" if name.startswith("msr_") else "glue/data"
    address = below(mirror, f"{folder}/{name}")
    with checked_file(address, pieces, name) as file:
        size, found = file.stat().st_size, sha256_of(file)
        if (size, found) != (n_bytes, sha256):
            raise UserError(
                f"{shown(address)} has {size:,} bytes with the SHA-256 {found}, and GLUE's has {n_bytes:,} with "
                f"{sha256}"
            )
    return file


def _cut_mrpc(new: Path, train: Path, test: Path, dev_ids: Path) -> None:
    held_out = set(_rows(dev_ids))
    rows = _rows(train)[1:]
    for name, is_dev in (("train.tsv", False), ("dev.tsv", True)):
        lines = [HEADER, *("\t".join(row) for row in rows if (tuple(row[1:3]) in held_out) == is_dev)]
        _write(new / name, lines)
    header = HEADER.replace("Quality", "index")
    _write(new / "test.tsv", [header, *("\t".join((str(i), *row[1:])) for i, row in enumerate(_rows(test)[1:]))])


def _rows(path: Path) -> list[tuple[str, ...]]:
    lines = read_text(path, "file of MRPC", "get it again").rstrip("\n").split("\n")
    return [tuple(line.split("\t")) for line in lines]


def _write(path: Path, lines: list[str]) -> None:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
