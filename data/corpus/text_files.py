"""Which files of a folder or an archive are texts: what is left out is told, with the reason."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePath

from data.artifacts.manifest import LeftOut

HIDDEN = "hidden or made by an operating system"
TEXTS = (".txt",)
OTHER_KIND = "not .txt"
OTHER_KINDS = "of other kinds"
NOT_REGULAR = "broken links, pipes, sockets or devices"
LINKED_TWICE = "links to folders that are there already"
UNREADABLE = "folders that cannot be read"
SYSTEM_NAMES = ("__MACOSX", "$RECYCLE.BIN", "System Volume Information", "@eaDir")  # macOS, Windows, Synology


def why_not(name: PurePath, is_folder: bool = False, endings: tuple[str, ...] = TEXTS) -> str | None:
    """Why a file or folder of this name, as the user has it, is left out; None if its name is no reason.

    Args:
        endings: of the names of files that are wanted, in lower case.
    """
    if any(part.startswith((".", "~$")) or part in SYSTEM_NAMES for part in name.parts):
        return HIDDEN
    if is_folder or name.name.lower().endswith(endings):
        return None
    return OTHER_KIND if endings == TEXTS else OTHER_KINDS


def texts_in(folder: Path, endings: tuple[str, ...] = TEXTS) -> tuple[dict[str, Path], LeftOut]:
    """The texts at any depth, by their paths from there, in order; and what else is there. Links are followed."""
    texts: dict[str, Path] = {}
    left_out = LeftOut()
    for path, reason in _walk(folder):
        name = path.relative_to(folder)
        if reason := reason or why_not(name, endings=endings):
            left_out.add(reason, name.as_posix())
        elif not os.path.isfile(path):  # opening a pipe would wait for ever
            left_out.add(NOT_REGULAR, name.as_posix())
        else:
            texts[name.as_posix()] = path
    return dict(sorted(texts.items(), key=lambda item: PurePath(item[0]))), left_out


def _walk(folder: Path) -> Iterator[tuple[Path, str | None]]:
    """The files, and the folders that are not entered with the reason."""
    seen, starts = set(), [folder] if folder.is_dir() else []
    unreadable: list[OSError] = []
    for start in starts:  # links come last, so that what is in the folder itself keeps its name
        if _identity(start) in seen:
            yield start, LINKED_TWICE
            continue
        for parent, folders, files in os.walk(start, onerror=unreadable.append):
            if not os.access(parent, os.X_OK):  # its names can be listed, and nothing else
                folders.clear()
                yield Path(parent), UNREADABLE
                continue
            seen.add(_identity(parent))
            paths = {name: Path(parent, name) for name in sorted(folders)}
            refused = {name: reason for name in paths if (reason := why_not(paths[name].relative_to(folder), True))}
            yield from ((paths[name], reason) for name, reason in refused.items())
            links = [name for name in paths if name not in refused and os.path.islink(paths[name])]
            starts += [paths[name] for name in links]
            folders[:] = [n for n in paths if n not in refused and n not in links and _identity(paths[n]) not in seen]
            yield from ((Path(parent, name), None) for name in sorted(files))
    yield from ((Path(error.filename), UNREADABLE) for error in unreadable)


def _identity(path: str | Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino
