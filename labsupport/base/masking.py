"""Secrets out of what is printed or stored: users and passwords in addresses, tokens, values of secret variables."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import IO, Any
from urllib.parse import quote, quote_plus, unquote

MASK = "***"
SHORTEST = 6  # characters of a value that is looked for by itself; a shorter one may stand in any text
SECRET_NAME = re.compile(
    r"TOKEN(?!IZ|S(_|$))|SECRET|PASSW|PASSPHRASE|CREDENTIAL|APIKEY|(^|_)(AUTH|COOKIE|KEY|PASS|PAT|PSW|PWD)(_|\d|$)"
)
FOLDERS = ("PWD", "OLDPWD")
# The user part of an address may hold "@"; pathlib makes one slash of two.
USER = re.compile(r"(\b[a-z][a-z0-9+.-]{1,20}:/{1,2})[^/\s\"'<>`]+@", re.IGNORECASE)
QUERY = re.compile(
    r"([?&;](?:[\w.-]*(?:token|secret|password|passwd|signature|credential)|(?:api_?|access_?)?key|sig|auth)=)[^&;#\s\"'<>]+",
    re.IGNORECASE,
)
HEADER = re.compile(
    r"(authorization[\"']?\s*[:=]\s*[\"']?(?:(?:bearer|basic|digest|token)\s+)?)[^\s\"',]+"
    r"|(\b(?:bearer|basic)\s+)[\w.~+/=-]{12,}",
    re.IGNORECASE,
)
TOKEN = re.compile(
    r"(?<![A-Za-z0-9])(?:(?:hf|api_org|gh[oprsu]|github_pat|npm|dckr_pat)_|glpat-|pypi-|sk-|xox[abprs]-|AKIA|ASIA)[\w-]{16,}"
    r"|\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"
)
PRIVATE_KEY = re.compile(r"(-----BEGIN [A-Z ]*PRIVATE KEY-----).*?(-----END|\Z)", re.DOTALL)
LOGIN = re.compile(  # of a variable: with its scheme or without it, or after an index's name
    r"(?:[\w.-]+=(?=\w+:/))?(?P<address>[^\s/:@]+://)?(?:[^\s/:@]*:(?P<password>\S+)|(?P<user>[^\s/:@]+))@[^\s@]"
)
BASIC = re.compile(r"(?<=://)[^\s/@:,]*:[^\s/]+(?=@)|^[^\s/@:,]+:[^\s/]+(?=@)")  # the user and password of an address


def mask(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """The text with *** for each secret in it: known by its form, or because a variable of the environment holds it."""
    for secret in sorted(find_secrets(environment), key=len, reverse=True):
        text = text.replace(secret, MASK)
    text = USER.sub(rf"\1{MASK}@", text)
    text = QUERY.sub(rf"\1{MASK}", text)
    text = HEADER.sub(lambda found: f"{found[1] or found[2]}{MASK}", text)
    return PRIVATE_KEY.sub(rf"\1{MASK}\2", TOKEN.sub(MASK, text))


def find_secrets(environment: Mapping[str, str]) -> set[str]:
    """Values that the variables hold as secrets, also as JSON, addresses and headers spell them."""
    found = {value for name, text in environment.items() for value in secrets_in(name.upper(), text.strip())}
    plain = {value for value in found if len(value) >= SHORTEST}
    logins = {found[0] for text in environment.values() for found in BASIC.finditer(text) if len(found[0]) >= SHORTEST}
    return {form for value in plain for form in spell(value)} | {
        form for login in logins for form in spell_base64(login)
    }


def spell(value: str) -> set[str]:
    """The value as it is, in JSON, in addresses and in base64; unquoted, if it is long enough to be looked for."""
    plain = {value, unquote(value)} if len(unquote(value)) >= SHORTEST else {value}
    coded = {
        form for each in plain for form in (quote(each, ""), quote(each), quote_plus(each), json.dumps(each)[1:-1])
    }
    return plain | coded | {form for each in plain for form in spell_base64(each)}


def spell_base64(value: str) -> set[str]:
    """In both alphabets, without what pads it; as the header of HTTP's basic authentication has user and password."""
    data = {each.encode(errors="surrogateescape") for each in (value, unquote(value))}
    coded = {encode(each) for each in data for encode in (base64.b64encode, base64.urlsafe_b64encode)}
    return {each.decode().rstrip("=") for each in coded}


def secrets_in(name: str, text: str) -> Iterator[str]:
    """The whole value of a variable with such a name, unless it is a path; of its addresses the password, or the user
    alone, which is a token."""
    if SECRET_NAME.search(name) and name not in FOLDERS and not os.path.exists(text):
        yield text
    for part in re.split(r"[\s,]+", text):
        if found := LOGIN.match(part):
            yield found["password"] or (found["user"] if found["address"] else "")


def mask_all(content: Any) -> Any:
    """The same JSON content (a record, a notebook) with every text in it masked, but for names of fields."""
    if isinstance(content, dict):
        return {name: mask_all(value) for name, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [mask_all(value) for value in content]
    return mask(content) if isinstance(content, str) else content


class MaskedStream:
    """A text stream that masks what is written to it; for standard error, where libraries log and tracebacks end."""

    def __init__(self, stream: IO[str]):
        self.stream = stream

    def __getattr__(self, name: str):
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        self.stream.write(mask(text))
        return len(text)
