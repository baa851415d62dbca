"""The files that MLPerf's BERT starts from: their names, sizes and sums as published, and what is wrong with one.

Of 500 parts of the training text the sums of six are published beside the benchmark; a list that comes with the files
has all of them.
"""

import dataclasses
import hashlib
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from common.errors import Problem, UserError
from common.json_files import regular

N_PARTS = 500
CHECKPOINT = "model.ckpt-28252"
CONFIG, VOCAB, EVALUATION_TEXT = "bert_config.json", "vocab.txt", "text/eval.txt"
SUMS = MappingProxyType(
    {
        CONFIG: (314, "7f59165e21b7d566db610ff6756c926b"),
        VOCAB: (231_508, "64800d5d8528ce344256daf115d4965e"),
        f"{CHECKPOINT}.index": (17_371, "f97de3ae180eb8d479555c939d50d048"),
        f"{CHECKPOINT}.data-00000-of-00001": (4_034_713_312, "50797acd537880bfb5a7ade80d976129"),
        EVALUATION_TEXT: (32_851_144, "2a220f790517261547b1b45ed3ada07a"),
        "text/part-00000-of-00500": (27_150_902, "a64a7c31eff5cd38ae6d94f7a6229dab"),
        "text/part-00001-of-00500": (27_198_569, "549a9ed4f805257245bec936563abfd0"),
        "text/part-00002-of-00500": (27_395_616, "1a1366ddfc03aef9d41ce552ee247abf"),
        "text/part-00497-of-00500": (24_775_043, "66835aa75d4855f2e678e8f3d73812e9"),
        "text/part-00498-of-00500": (24_575_505, "e6d68a7632e9f4aa1a94128cce556dc9"),
        "text/part-00499-of-00500": (21_873_644, "b3b087ad24e3770d879a351664cebc5a"),
    }
)
"""Bytes and MD5, by path under the folder of the preparation."""
SUM_OF_EVALUATION_ROWS = "611d8bae26646145e1c33338a27ba124"  # NVIDIA's, of its eval_varlength/part_eval_10k.hdf5
HEAD_BYTES = 2**16
OTHER_KINDS = MappingProxyType(
    {b"\x1f\x8b": "compressed (gzip)", b"BZh": "compressed (bzip2)", b"<html": "a web page", b"<!doctype": "a web page"}
)
"""How files begin that are no text, in lower case, and what they are."""


@dataclasses.dataclass(frozen=True)
class PublishedFile:
    """A file that is wanted. Of stand-ins nothing but the name is known."""

    path: str  # under the folder of the preparation
    bytes: int | None = None
    md5: str | None = None

    @property
    def name(self) -> str:
        """As it is published."""
        return PurePosixPath(self.path).name

    @property
    def is_text(self) -> bool:
        return not self.name.startswith(CHECKPOINT)


def part_paths(n_parts: int) -> list[str]:
    """The first parts of the training text."""
    return [f"text/part-{i:05d}-of-{N_PARTS:05d}" for i in range(n_parts)]


def wanted_files(n_parts: int, are_stand_ins: bool) -> list[PublishedFile]:
    """All but the other parts; the large checkpoint last."""
    checkpoint = [f"{CHECKPOINT}.index", f"{CHECKPOINT}.data-00000-of-00001"]
    paths = [CONFIG, VOCAB, EVALUATION_TEXT, *part_paths(n_parts), *checkpoint]
    return [PublishedFile(path, *(() if are_stand_ins else SUMS.get(path, ()))) for path in paths]


def check_file(path: Path, file: PublishedFile, listed: str | None = None, remedy: str = "get it again") -> None:
    """Raises UserError if what lies at a path is not the file.

    Args:
        listed: its MD5 in a list that came with it; what is published beside the benchmark counts more.
    """
    what = _why_wrong(path, file, file.md5 or listed)
    if what:
        raise UserError(Problem(f"{path} {what}", remedy))


def _why_wrong(path: Path, file: PublishedFile, md5: str | None) -> str:
    """The end of a sentence, or nothing."""
    size = path.stat().st_size
    if not size:
        return "is empty"
    with open(regular(path), "rb") as content:
        head = content.read(HEAD_BYTES)
    begin = head.lstrip()[:16].lower()
    kind = next((what for bytes_, what in OTHER_KINDS.items() if begin.startswith(bytes_)), "")
    if kind and file.is_text:
        return f"is {kind}, not the file itself"
    wrong = ""
    if file.bytes not in (None, size):
        wrong = f"has {size:,} bytes in place of {file.bytes:,}"
    elif md5 and (found := md5_of(path)) != md5:
        wrong = f"has the MD5 {found} in place of {md5}"
    has_returns = wrong and file.is_text and b"\r\n" in head
    return wrong + (", and its lines end with CR LF, as after a transfer in text mode" if has_returns else "")


def md5_of(path: Path) -> str:
    """In hexadecimal."""
    with open(regular(path), "rb") as content:
        return hashlib.file_digest(content, "md5").hexdigest()
