"""Addresses of files on the network, and what of them may be shown and recorded.

An address can hold a password before its host and a signature in its query. Whatever is printed or written, such as an
error, a log or a manifest, has it without both.
"""

import re
from urllib.parse import unquote

MAX_NAME_BYTES = 120  # file systems take 255, and what is made of a name is longer
PARTS = re.compile(r"([a-z][a-z0-9+.-]+:/+)([^/?#]*)([^?#]*)", re.IGNORECASE)  # scheme, authority, path
# A scheme's length is bounded, or a long text of dots would be searched from each of them to its end.
IN_TEXT = re.compile(r"\b(?:(?:https?|s3):/|[a-z][a-z0-9+.-]{1,30}://)[^\s\"\\]*[^\s\"\\:;,.)]", re.IGNORECASE)


def is_remote(address: str) -> bool:
    """Whether it is an address that can be downloaded, as opposed to a local path."""
    return address.lower().startswith(("http://", "https://", "s3://"))


def shown(address: str) -> str:
    """The address without user, password, query and fragment; a local path as it is."""
    parts = PARTS.match(address)
    if parts is None:
        return address
    scheme, authority, path = parts.groups()
    host = authority.rpartition("@")[2]
    if ":" in authority and "@" in address[parts.end(2) :]:  # what looks like a port may begin a password with / ? or #
        host, path = "(an address with a password that cannot be read)", ""
    return f"{scheme.lower()}{host}{path}"


def without_secrets(text: str) -> str:
    """A text, such as a sentence or a line of JSON, with every address in it as `shown`."""
    return IN_TEXT.sub(lambda found: shown(found[0]), text)


def path_of(address: str) -> str:
    """The path of a remote address, percent signs included."""
    parts = PARTS.match(address)
    return parts[3] if parts else address


def last_part(address: str) -> str:
    """The file name that an address ends with, its end if it is very long; `download` if it has none."""
    name = "".join(filter(str.isprintable, unquote(path_of(address)).rpartition("/")[2]))
    return name.encode()[-MAX_NAME_BYTES:].decode(errors="ignore") or "download"


def below(mirror: str, path: str) -> str:
    """The address, or local path, of a file of a mirror; the mirror's query, such as a signature, stays last."""
    base, mark, query = mirror.partition("?") if is_remote(mirror) else (mirror, "", "")
    return f"{base.rstrip('/')}/{path}{mark}{query}"
