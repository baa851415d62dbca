"""One reader of JSON files, for all that users and other programs give."""

import json
import os
from pathlib import Path
from typing import Any

from common.errors import UserError


def read_json(path: str | os.PathLike, what: str, remedy: str, expected: type = dict) -> Any:
    """The value, of the `expected` type (object: any), in a JSON file of UTF-8, with or without a byte order mark.

    Raises:
        UserError: it cannot be read or is no `what` ("model configuration"): empty, not UTF-8, not JSON, nested too
            deep or of another type.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"The {what} {path} cannot be read ({error.strerror})", remedy) from error
    try:
        value = json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        finding, cause = f"is not UTF-8 (byte {error.start})", error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        finding, cause = f"is not JSON ({where}: {error.msg})" if error.doc.strip() else "is empty", error
    except (RecursionError, ValueError) as error:  # nested too deep, or a number of thousands of digits
        finding, cause = f"is JSON that cannot be read ({error})", error
    else:
        if isinstance(value, expected):
            return value
        finding, cause = f"holds no JSON {'object' if expected is dict else expected.__name__}", None
    raise UserError(f"{path} is no {what}: it {finding}", remedy) from cause
