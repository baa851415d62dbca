"""One reader of text files, for all that users and other programs give."""

import os
from pathlib import Path

from common.errors import UserError
from common.json_files import regular


def read_text(path: str | os.PathLike, what: str, remedy: str) -> str:
    """The text of a file in UTF-8, with or without a byte order mark, whose lines end with "\\n" however they did.

    Raises:
        UserError: it cannot be read or is no UTF-8; `what` ("vocabulary") is what the sentence calls it.
    """
    try:
        return Path(regular(path)).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"The {what} {path} cannot be read ({error.strerror})", remedy) from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"The {what} {path} is not UTF-8 text (byte {error.start}, line {line})", remedy) from error
