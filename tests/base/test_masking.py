"""Secrets do not reach what is printed or stored."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
import time

import pytest

from labsupport.base.errors import CheckpointError
from labsupport.base.masking import MaskedStream, mask, mask_all
from labsupport.base.paths import ROOT

HF = "hf_" + "aB3" * 11
PLANTED = {  # the secret -> a text that shows it, where no variable holds it
    "pa:ss": "HEAD https://me:pa:ss@hub.example/api failed",
    "p@ss": "https://me:p@ss@hub.example",
    "only-a-token": "--find-links https://only-a-token@wheels.example/simple",
    "s3cret": "proxy http://me:s3cret@proxy:3128, index name=https://pypi.example",
    "squeezed": "No such file: 'https:/me:squeezed@hub.example/x'",
    "querysecret": "GET https://hub.example/x?a=1&access_token=querysecret&b=2",
    "signed": "https://cdn.example/x?X-Amz-Signature=signed",
    HF: f"401 for {HF}.",
    "ghp_" + "a1" * 18: "token ghp_" + "a1" * 18,
    "AKIA" + "ABCD" * 4: "id=AKIA" + "ABCD" * 4,
    "abcdefgh12345678": "{'Authorization': 'Bearer abcdefgh12345678'}",
    "bXk6c2VjcmV0": "authorization: Basic bXk6c2VjcmV0",
    "eyJhbGciOi.eyJzdWIiOi.c2ln": "session eyJhbGciOiJIUzI1.eyJzdWIiOiIx.c2ln",
    "MIIEow": "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\n-----END RSA PRIVATE KEY-----",
}


@pytest.mark.parametrize("secret", PLANTED)
def test_a_secret_is_known_by_its_form(secret):
    masked = mask(PLANTED[secret], {})
    assert secret not in masked
    assert "***" in masked
    assert mask(masked, {}) == masked


VARIABLES = {
    "HF_TOKEN": "plain-token",
    "MY_SECRET_THING": "open sesame",
    "DB_PASSWORD": 'quo"ted\\1',
    "SOME_API_KEY": "0123456789",
    "HF_ENDPOINT": "https://user7:endpoint-pass@hub.example",
    "PIP_INDEX_URL": "https://index-token@pypi.example/simple",
    "UV_INDEX": "name=https://u:uv-index-pass@a.example https://v:second-pass@b.example",
    "PIP_FIND_LINKS": "/wheels https://w:links-pass@c.example/x",
    "HTTPS_PROXY": "puser:proxy-pass@proxy.example:3128",
    "ODD": "https://u:with/slash@d.example",
    "CODED": "https://u:per%20cent@e.example",
}
VALUES = (
    "plain-token", "open sesame", 'quo"ted\\1', "0123456789", "endpoint-pass", "index-token", "uv-index-pass",
    "second-pass", "links-pass", "proxy-pass", "with/slash", "per%20cent", "per cent",
)  # fmt: skip


@pytest.mark.parametrize("value", VALUES)
def test_what_a_variable_holds_is_masked_wherever_it_stands(value):
    assert mask(f"it was {value}!", VARIABLES) == "it was ***!"
    assert value not in mask(json.dumps([value]), VARIABLES)


def encoded(text):
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    "text",
    [
        encoded("plain-token"), encoded("puser:proxy-pass"), encoded("user7:endpoint-pass").rstrip("="),
        encoded("u:per cent"), "quo%22ted%5C1", "open%20sesame", "open+sesame", "with%2Fslash",
    ],
)  # fmt: skip
def test_what_a_variable_holds_is_masked_as_addresses_and_headers_spell_it(text):
    assert mask(f"sent {text}", VARIABLES).rstrip("=") == "sent ***"


@pytest.mark.parametrize(
    "name", ["JUPYTER_TOKEN", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD", "OPENAI_KEY_2", "AZURE_KEY1", "DB_PASS"]
)
def test_the_names_of_common_secrets_are_known(name):
    assert mask("it was v4lue/+x", {name: "v4lue/+x"}) == "it was ***"


@pytest.mark.parametrize("scheme", ["Basic ", "bearer ", "token ", ""])
def test_the_header_of_an_authorization_is_masked_however_short(scheme):
    assert mask(f"Authorization: {scheme}dTpw", {}) == f"Authorization: {scheme}***"


def test_what_is_no_secret_stays():
    plain = "https://hub.example/a@v1.0?monkey=1 me@example.org C:/me@home git@host:x 5 tokens, key=3 /usr/bin true"
    harmless = {
        "PWD": "/usr/bin", "SSH_AUTH_SOCK": "/usr/bin", "TOKENIZERS_PARALLELISM": "monkey", "MAX_TOKENS": "example",
        "LAB_KEY": "true", "LANG": "tokens", "EMPTY_TOKEN": "",
    }  # fmt: skip
    assert mask(plain, harmless) == plain


@pytest.mark.parametrize("text", ["a.", "a:/", "?a", "basic ", "hf_", "x://", "eyJ.", "-----BEGIN PRIVATE KEY-----"])
def test_a_hostile_text_takes_no_time(text):
    start = time.perf_counter()
    mask(text * (300_000 // len(text)), {})
    assert time.perf_counter() - start < 5


def test_an_error_shows_none_in_any_of_its_parts(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "plain-token")
    error = CheckpointError("plain-token refused", where="https://me:pass@hub.example", hint="Look at plain-token.")
    for text in (str(error), repr(error), error.what):
        assert "plain-token" not in text
        assert "pass" not in text


def test_a_stream_and_a_notebook_are_masked(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "plain-token")
    stream = io.StringIO()
    print("log of plain-token", file=MaskedStream(stream))
    assert stream.getvalue() == "log of ***\n"
    notebook = {"cells": [{"outputs": [{"text": ["a plain-token\n"], "n": 1}]}]}
    assert mask_all(notebook) == {"cells": [{"outputs": [{"text": ["a ***\n"], "n": 1}]}]}


COMMAND = """
import logging
from labsupport import cli
def fail(**how):
    logging.getLogger("a library").warning("HEAD https://me:logged@hub.example")
    raise ConnectionError("https://me:raised@hub.example")
cli.app = fail
cli.main()
"""


def test_what_a_command_logs_and_where_it_breaks_shows_no_secret():
    done = subprocess.run([sys.executable, "-c", COMMAND], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.stderr.count("https://***@hub.example") >= 2
    assert done.returncode == 1
    assert "me:" not in done.stderr
