"""Tokens, from a file or the environment; and pages of other addresses."""

from __future__ import annotations

import hmac
import os

import pytest

from labsupport.base.errors import ServingError
from labsupport.serving import auth
from labsupport.serving.auth import Tokens, is_foreign, read_tokens
from labsupport.serving.settings import LOOPBACK_NAMES

TOKEN = "a-token-of-some-length"


@pytest.mark.parametrize(
    ("header", "accepted"),
    [
        (f"Bearer {TOKEN}", True), (f"bearer  {TOKEN}", True), (None, False), ("", False), ("Bearer", False),
        (f"Basic {TOKEN}", False), (TOKEN, False), (f"Bearer {TOKEN}x", False), ("Bearer tökén", False),
    ],
)  # fmt: skip
def test_a_header_opens_it_or_does_not(header, accepted):
    assert Tokens([TOKEN, "another-token-of-that-length"]).accepts(header) == accepted


def test_without_tokens_everybody_is_let_in():
    assert Tokens().accepts(None)
    assert not Tokens()


def test_every_token_is_compared_in_constant_time(monkeypatch):
    compared, original = [], hmac.compare_digest

    def compare(a, b):
        compared.append((len(a), len(b)))
        return original(a, b)

    monkeypatch.setattr(auth.hmac, "compare_digest", compare)
    tokens = Tokens([TOKEN, "another-token-of-that-length", "x" * 500])
    for given in (TOKEN, "", "x" * 500):
        compared.clear()
        tokens.accepts(f"Bearer {given}")
        assert compared == [(32, 32)] * 3


def test_a_file_and_the_environment_are_read(tmp_path):
    file = tmp_path / "tokens"
    file.write_text(f"# of the desk\n{TOKEN}\n\n  second-token-of-the-file \n")
    file.chmod(0o600)
    tokens = read_tokens(str(file), {auth.VARIABLE: "third-token-of-all-three"})
    given = (TOKEN, "second-token-of-the-file", "third-token-of-all-three", "# of the desk")
    assert [tokens.accepts(f"Bearer {each}") for each in given] == [True, True, True, False]
    assert not read_tokens(None, {})


def test_a_file_as_windows_writes_it_is_read(tmp_path):
    file = tmp_path / "tokens"
    file.write_bytes(f"\ufeff{TOKEN}\r\n".encode())
    file.chmod(0o600)
    assert read_tokens(str(file), {}).accepts(f"Bearer {TOKEN}")


@pytest.mark.parametrize("content", ["", "# none\n", "short\n", "token with spaces in it\n", "ein-tökén-mit-ümläut\n"])
def test_a_file_without_a_good_token_is_refused(tmp_path, content):
    file = tmp_path / "tokens"
    file.write_text(content)
    file.chmod(0o600)
    with pytest.raises(ServingError) as caught:
        read_tokens(str(file), {})
    assert "spaces in it" not in str(caught.value)


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such permissions")
def test_a_file_that_everybody_may_read_is_refused(tmp_path):
    file = tmp_path / "tokens"
    file.write_text(TOKEN)
    file.chmod(0o644)
    with pytest.raises(ServingError, match="Everybody"):
        read_tokens(str(file), {})
    with pytest.raises(ServingError, match="cannot be read"):
        read_tokens(str(tmp_path / "none"), {})


@pytest.mark.parametrize(
    ("headers", "foreign"),
    [
        ({"host": "127.0.0.1:8000"}, False), ({"host": "localhost"}, False), ({"host": "[::1]:8000"}, False),
        ({"host": "127.0.0.1:8000", "origin": "http://127.0.0.1:8000"}, False),
        ({"host": "localhost:8000", "origin": "http://localhost:8000", "sec-fetch-site": "same-origin"}, False),
        ({}, True), ({"host": ""}, True), ({"host": "evil.example"}, True), ({"host": "[broken"}, True),
        ({"host": "127.0.0.1.evil.example:8000"}, True),
        ({"host": "127.0.0.1:8000", "origin": "https://evil.example"}, True),
        ({"host": "127.0.0.1:8000", "origin": "http://127.0.0.1:9000"}, True),
        ({"host": "127.0.0.1:8000", "origin": "null"}, True), ({"host": "127.0.0.1", "origin": "http://[x"}, True),
        ({"host": "127.0.0.1:8000", "sec-fetch-site": "cross-site"}, True),
    ],
)  # fmt: skip
def test_pages_of_other_addresses_are_foreign(headers, foreign):
    assert is_foreign(headers, LOOPBACK_NAMES) == foreign


def test_any_name_is_right_where_others_reach_it():
    assert not is_foreign({"host": "speech.example"}, None)
    assert is_foreign({"host": "speech.example", "origin": "https://evil.example"}, None)
