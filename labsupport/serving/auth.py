"""Who may use the service: bearer tokens, and browsers' pages of its own address alone."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from labsupport.base.errors import ServingError

VARIABLE = "LAB_SERVE_TOKEN"
SHORTEST = 16  # characters: a shorter token could be guessed


class Tokens:
    """The tokens that open the service; none of them, and it is open.

    Only their digests are in memory, and all have the same length: a comparison takes the same time for any of them.
    """

    def __init__(self, tokens: Sequence[str] = ()):
        self.digests = [digest(token) for token in tokens]

    def __bool__(self) -> bool:
        return bool(self.digests)

    def accepts(self, header: str | None) -> bool:
        """Whether an Authorization header opens the service. Every token is compared, also after one that fits."""
        if not self.digests:
            return True
        scheme, _, given = (header or "").partition(" ")
        found = [hmac.compare_digest(digest(given.strip()), each) for each in self.digests]
        return scheme.lower() == "bearer" and any(found)


def digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def read_tokens(file: str | None, environment: Mapping[str, str] = os.environ) -> Tokens:
    """The tokens of a file, one a line (# begins a comment), and that of `LAB_SERVE_TOKEN`.

    Raises:
        ServingError: the file cannot be read or holds none, others may read it, or a token is too short.
    """
    found = read_file(Path(file)) if file else []
    if token := environment.get(VARIABLE, "").strip():
        found.append(token)
    if any(len(token) < SHORTEST or not token.isascii() or " " in token for token in found):
        hint = "Make one: python -c 'import secrets; print(secrets.token_urlsafe())'"
        what = f"A token needs {SHORTEST} characters of ASCII or more, without a space."
        raise ServingError(what, where=file or VARIABLE, hint=hint)
    return Tokens(found)


def read_file(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()  # Windows' editors begin with a mark
        mode = path.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8"
        raise ServingError(f"The file of tokens cannot be read: {reason}.", where=path) from error
    if os.name == "posix" and mode & 0o007:
        raise ServingError("Everybody on this machine may use the file of tokens.", where=path, hint="chmod 600 it.")
    tokens = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not tokens:
        raise ServingError("The file holds no token.", where=path, hint="Write one on a line.")
    return tokens


def is_foreign(headers: Mapping[str, str], allowed: frozenset[str] | None) -> bool:
    """Whether a request comes from a page of another address, or to a name that this service does not have.

    A browser lets any page post to this machine; and a page whose name is made to mean 127.0.0.1 could read answers.

    Args:
        headers: with lower-case names.
        allowed: names of this service; None where any may be right, as behind a proxy.
    """
    host = headers.get("host", "")
    if allowed is not None and host_name(host) not in allowed:
        return True
    if headers.get("sec-fetch-site") == "cross-site":
        return True
    origin = headers.get("origin")
    return origin is not None and urlsplit_netloc(origin) != host.lower()


def host_name(host: str) -> str:
    """The name of a Host header, without its port and brackets; "" where it is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def urlsplit_netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""
