"""A form, however its bytes arrive; a fuzz of its bytes; limits before anything is stored."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from labsupport.serving import uploads
from labsupport.serving.problems import ClientGone, Problem
from labsupport.serving.settings import Settings
from labsupport.serving.spool import Spool
from labsupport.serving.uploads import check_length, find_boundary, receive_form

LIMITS = Settings(upload_bytes=2**21, field_bytes=1000)
SOUND = bytes(range(256)) * 40 + b"\r\n--b\r\n--bb\r\n--" + bytes(300)


def form(content: bytes = SOUND, **fields: str) -> bytes:
    part = '--b0\r\nContent-Disposition: form-data; name="{}"\r\n\r\n{}\r\n'
    texts = [part.format(name, text) for name, text in fields.items()]
    head = '--b0\r\nContent-Disposition: form-data; name="file"; filename="ä.wav"\r\nContent-Type: audio/wav\r\n\r\n'
    return "".join(texts).encode() + head.encode() + content + b"\r\n--b0--\r\n"


def receive_all(pieces: list[bytes], spool: Spool, last: dict | None = None):
    """What the form was, and its file's content."""
    messages = [{"type": "http.request", "body": each, "more_body": True} for each in pieces]
    messages.append(last or {"type": "http.request", "body": b"", "more_body": False})

    async def receive():
        return messages.pop(0)

    with spool.open() as upload:
        reader = asyncio.run(receive_form(receive, b"b0", upload, LIMITS))
        return reader, upload.path.read_bytes()


@pytest.fixture(scope="module")
def spool(tmp_path_factory):
    return Spool(2**30, tmp_path_factory.mktemp("spool"))


@given(cuts=st.lists(st.integers(0, len(form(model="tiny.en", prompt="Grüße"))), max_size=12))
@example(cuts=list(range(500)))
def test_a_form_is_the_same_however_it_is_cut(spool, cuts):
    body = form(model="tiny.en", prompt="Grüße")
    places = sorted({0, *cuts, len(body)})
    pieces = [body[start:end] for start, end in itertools.pairwise(places)]
    reader, content = receive_all(pieces, spool)
    assert content == SOUND
    assert reader.fields == {"model": ["tiny.en"], "prompt": ["Grüße"]}
    assert reader.has_file
    assert spool.bytes == 0


def status_of(body: bytes, spool: Spool) -> int:
    try:
        receive_all([body], spool)
    except Problem as problem:
        return problem.status
    return 200


TOKENS = st.lists(st.sampled_from([b"--b0", b"\r\n", b"--", b": ", b"x", b'name="file"', b"Content-"]), max_size=30)


@given(body=st.binary(max_size=400) | TOKENS.map(b"".join))
def test_no_bytes_give_another_error_than_a_problem(spool, body):
    assert status_of(body, spool) in (200, 400, 413, 422)
    assert spool.bytes == 0


@given(place=st.integers(0, len(form()) - 1), value=st.integers(0, 255))
def test_a_changed_byte_gives_no_other_error(spool, place, value):
    body = bytearray(form())
    body[place] = value
    assert status_of(bytes(body), spool) in (200, 400, 413, 422)


def test_a_large_file_is_written_piece_by_piece(spool, monkeypatch):
    largest = 0
    write = uploads.Upload.write

    def note(self, data):
        nonlocal largest
        largest = max(largest, len(data))
        write(self, data)

    monkeypatch.setattr(uploads.Upload, "write", note)
    content = bytes(2**20)
    body = form(content)
    pieces = [body[start : start + 60_000] for start in range(0, len(body), 60_000)]
    assert receive_all(pieces, spool)[1] == content
    assert largest < uploads.FLUSH + 60_000


START = form()[:120]


@pytest.mark.parametrize(
    ("pieces", "status"),
    [
        ([START, *[bytes(2**20)] * 3], 413), ([form(prompt="x" * 1001)], 413), ([form()[:-3]], 400), ([], 400),
        ([form(**{str(number): "x" for number in range(64)})], 422),
    ],
)  # fmt: skip
def test_limits_and_broken_forms(spool, pieces, status):
    with pytest.raises(Problem) as caught:
        receive_all(pieces, spool)
    assert caught.value.status == status


def test_a_client_that_leaves_in_the_middle(spool):
    with pytest.raises(ClientGone):
        receive_all([form()[:100]], spool, {"type": "http.disconnect"})
    assert spool.bytes == 0


def test_a_length_that_is_too_large_is_refused_before_the_body():
    check_length(None, LIMITS)
    check_length("100", LIMITS)
    check_length("no number", LIMITS)
    with pytest.raises(Problem):
        check_length(str(2**21 + 1), LIMITS)


def test_only_a_form_with_a_boundary_is_taken():
    assert find_boundary('multipart/form-data; boundary="b0"') == b"b0"
    for kind in (None, "", "text/plain", "multipart/form-data", "multipart/mixed; boundary=b", "application/json"):
        with pytest.raises(Problem) as caught:
            find_boundary(kind)
        assert caught.value.status == 415
