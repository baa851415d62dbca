"""The files that words after --source name, and of which corpus each is.

A word is a folder, a file, a pattern (*.parquet), an address or a file of addresses; NAME= before it names its corpus.
Without, that has the name of the folder that the files are in, as with data sets that are published in folders.
"""

import glob
import re
from collections.abc import Iterable
from pathlib import Path, PurePath
from urllib.parse import unquote

from common.addresses import is_remote, last_part, path_of, shown
from common.errors import Problem
from data.artifacts.manifest import LeftOut
from data.corpus.text_files import texts_in, why_not
from data.downloaders.folder import addresses_in

NAMED = re.compile(r"([A-Za-z0-9][\w.-]*)=(.+)", re.DOTALL)
NO_NAME = "documents"  # of a corpus, where no folder has one


class NamedFiles:
    """The files and addresses that words name, whose names end as one of `endings`.

    Attributes:
        files, addresses: by name, CORPUS/PATH.
        left_out: what else is in the folders.
        problems: what is wrong with the words.
    """

    def __init__(self, words: Iterable[str], endings: tuple[str, ...]):
        self.endings = endings
        self.wanted = (
            f"folders of files, files, their addresses, or files of addresses; names end with {', '.join(endings)}"
        )
        self.files: dict[str, Path] = {}
        self.addresses: dict[str, str] = {}
        self.left_out = LeftOut()
        self.problems: list[Problem] = []
        for word in words:
            self._add_word(word)
        if not self.files and not self.addresses and not self.problems:
            self.problems.append(Problem("The text needs --source", f"give {self.wanted}"))

    def _add_word(self, word: str) -> None:
        is_named = not is_remote(word) and not Path(word).exists() and NAMED.fullmatch(word)
        corpus, where = is_named.groups() if is_named else ("", word)
        path = Path(where).expanduser()
        if is_remote(where):
            self._add_address(corpus, where)
        elif path.exists():
            self._add_path(corpus, path)
        else:
            found = sorted(glob.glob(str(path), recursive=True))
            for each in found:
                self._add_path(corpus, Path(each))
            if not found:
                self._refuse(where, "there is nothing of this name")

    def _add_path(self, corpus: str, path: Path) -> None:
        folder = path if path.is_dir() else path.parent
        corpus = corpus or _corpus(folder.resolve().name)
        if path.is_dir():
            found, left_out = texts_in(path, self.endings)
            for reason, names in left_out.items():
                for name in names:
                    self.left_out.add(reason, name)
            for name, file in found.items():
                self._add(self.files, f"{corpus}/{name}", file)
            if not found:
                self._refuse(path, f"no file of it is wanted{left_out}")
        elif addresses := addresses_in(path) if path.is_file() and path.suffix.lower() == ".txt" else []:
            for address in addresses:
                self._add_address(corpus, address)
        elif reason := why_not(PurePath(path.name), endings=self.endings):
            self._refuse(path, f"it is {reason}")
        elif not path.is_file():
            self._refuse(path, "it is a pipe, a socket or a device")
        else:
            self._add(self.files, f"{corpus}/{path.name}", path)

    def _add_address(self, corpus: str, address: str) -> None:
        name = last_part(address)
        if reason := why_not(PurePath(name), endings=self.endings):
            self._refuse(shown(address), f"it is {reason}")
            return
        corpus = corpus or _corpus(PurePath(unquote(path_of(address))).parent.name)
        self._add(self.addresses, f"{corpus}/{name}", address)

    def _add(self, to: dict, name: str, where: Path | str) -> None:
        before = self.files.get(name, self.addresses.get(name))
        if before not in (None, where):
            two = f"{shown(str(before))} and {shown(str(where))} of --source would both be {name}"
            self.problems.append(Problem(two, "name their corpora: --source ONE=PATH OTHER=PATH"))
        to[name] = where

    def _refuse(self, where: str | Path, reason: str) -> None:
        self.problems.append(Problem(f"--source {where} has no documents: {reason}", f"give {self.wanted}"))


def _corpus(folder: str) -> str:
    """A folder's name, if it hides nothing."""
    return folder if folder and not why_not(PurePath(folder), is_folder=True) else NO_NAME
