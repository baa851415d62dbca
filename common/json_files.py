"""One reader of JSON, for all that users and other programs give, and what it must look like."""

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

from common.errors import UserError


def regular(path: str | os.PathLike) -> str | os.PathLike:
    """The path, of a file or folder; raises OSError where opening it could wait for ever, or never come to an end."""
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError(errno.EINVAL, "it is a pipe, a socket or a device", os.fspath(path))
    return path


def parse_json(content: str | bytes) -> Any:
    """`json.loads`, for which everything wrong is a ValueError: nested too deep, and numbers of thousands of digits."""
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def read_json(path: str | os.PathLike, what: str, remedy: str, expected: type = dict) -> Any:
    """The value, of the `expected` type (object: any), in a JSON file of UTF-8, with or without a byte order mark.

    Raises:
        UserError: it cannot be read or is no `what` ("model configuration"): empty, not UTF-8, not JSON, nested too
            deep or of another type.
    """
    try:
        content = Path(regular(path)).read_bytes()
    except (OSError, ValueError) as error:  # a name with a zero byte is a ValueError
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"The {what} {path} cannot be read ({reason})", remedy) from error
    try:
        value = parse_json(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        finding, cause = f"is not UTF-8 (byte {error.start})", error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        finding, cause = f"is not JSON ({where}: {error.msg})" if error.doc.strip() else "is empty", error
    except ValueError as error:
        finding, cause = f"is JSON that cannot be read ({error})", error
    else:
        if isinstance(value, expected):
            return value
        finding, cause = f"holds no JSON {'object' if expected is dict else expected.__name__}", None
    raise UserError(f"{path} is no {what}: it {finding}", remedy) from cause


def mismatch(value: Any, form: Any, where: str = "") -> str | None:
    """Where nested values first differ from a form, in words: "schedule.finished_steps is 'x', not int"; else None.

    Args:
        form: a type (no bool passes for a number), a tuple of forms of which one must hold, `[form]` for a list or
            tuple, `{type: form}` for a dict with keys of a type, or `{"key": form, ...}` for one with at least these.
    """
    if isinstance(form, tuple):
        found = [mismatch(value, each, where) for each in form]
        return None if None in found else found[0]
    kind = form if isinstance(form, type) else type(form)
    is_kind = isinstance(value, (list, tuple) if kind is list else kind)
    if not is_kind or (isinstance(value, bool) and kind in (int, float)):
        is_short = value is None or isinstance(value, str | bool | float)
        said = f"{value!r:.60}" if is_short else f"of the type {type(value).__name__}"
        return f"{where or 'it'} is {said}, not {'null' if kind is type(None) else kind.__name__}"
    prefix = f"{where}." if where else ""
    parts: list[tuple[Any, Any, Any]] = []
    if isinstance(form, list):
        parts = [(index, part, form[0]) for index, part in enumerate(value)]
    elif isinstance(form, dict) and isinstance(key_type := next(iter(form)), type):
        if wrong := next(filter(None, (mismatch(key, key_type, f"a key of {where or 'it'}") for key in value)), None):
            return wrong
        parts = [(key, part, form[key_type]) for key, part in value.items()]
    elif isinstance(form, dict):
        if missing := next((key for key in form if key not in value), None):
            return f"{prefix}{missing} is missing"
        parts = [(key, value[key], form[key]) for key in form]
    return next(filter(None, (mismatch(part, each, f"{prefix}{key}") for key, part, each in parts)), None)
