"""The hub, played by a local server: pinned models, sizes, room, resuming, hashes; and each kind of wrong answer."""

from __future__ import annotations

import hashlib
import math
import shutil
import socket
import time

import pytest
from model_hub import COMMIT, serve_hub

from labsupport.base.errors import CheckpointError, FolderError
from labsupport.checkpoints import hub
from labsupport.checkpoints.config import SIZES
from labsupport.checkpoints.random_weights import tensor_shapes
from labsupport.checkpoints.resolve import PACKAGED, find_checkpoint

NAME = "someone/small"


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The class of the server's handlers, which is this process's hub; the cache is empty."""
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serve_hub() as running:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{running.server_port}")
        yield running.RequestHandlerClass


def answer(server, what: str, act) -> None:
    """From now on the server answers for this file, or the listing, by `act(handler, body)`."""
    server.misbehave = staticmethod(lambda handler, asked, body: asked == what and (act(handler, body) or True))


def weights_of(server, name: str = NAME) -> bytes:
    return server.models[name]["model.safetensors"]


def pin(server, monkeypatch, **fields) -> hub.Pin:
    """Makes `someone/small` a known model, as published, or with other fields."""
    body = weights_of(server)
    known = {"revision": COMMIT[::-1], "size": len(body), "sha256": hashlib.sha256(body).hexdigest()} | fields
    monkeypatch.setitem(hub.KNOWN, NAME, hub.Pin(**known))
    return hub.KNOWN[NAME]


# --- what is known beforehand -----------------------------------------------------------------------------------------


def test_every_size_has_a_pin_whose_size_is_its_tensors_and_a_header():
    assert hub.KNOWN.keys() == {f"openai/whisper-{size}" for size in SIZES}
    for size, config in SIZES.items():
        known = hub.KNOWN[f"openai/whisper-{size}"]
        numbers = sum(math.prod(shape) for _, shape in tensor_shapes(config))
        header = known.size - numbers * (2 if size.startswith("large-v3") else 4)
        assert 0 < header < 200 * len(list(tensor_shapes(config))), size
        assert (len(known.revision), len(known.sha256)) == (40, 64)


def test_the_packaged_models_are_the_pinned_ones():
    assert {name: hub.KNOWN[f"openai/whisper-{name}"].sha256 for name in PACKAGED} == {
        name: package.converted_sha256 for name, package in PACKAGED.items()
    }


def test_a_known_model_comes_at_its_pinned_commit_and_then_without_a_question(server, monkeypatch):
    known = pin(server, monkeypatch)
    folder = find_checkpoint(NAME).folder
    assert folder.name == known.revision
    assert all(known.revision in path for path in server.asked)
    server.asked.clear()
    assert find_checkpoint(NAME).folder == folder
    assert not server.asked


@pytest.mark.parametrize("fields", [{"size": 5}, {"sha256": "0" * 64}])
def test_a_known_model_with_another_size_or_hash_is_not_fetched(server, monkeypatch, fields):
    pin(server, monkeypatch, **fields)
    with pytest.raises(CheckpointError, match="not the published one"):
        find_checkpoint(NAME)
    assert len(server.asked) == 1


def test_a_small_model_under_a_known_ones_name_is_refused(server):
    with pytest.raises(CheckpointError, match="instead of 966,995,080"):
        find_checkpoint("small")


# --- the download -----------------------------------------------------------------------------------------------------


def test_a_model_is_fetched_whole_and_once(server, tmp_path):
    folder = find_checkpoint(NAME).folder
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert (folder / "model.safetensors").read_bytes() == weights_of(server)
    server.asked.clear()
    find_checkpoint(NAME)
    assert len(server.asked) == 1  # the listing
    assert [path.name for path in folder.parent.iterdir() if path.is_dir()] == [COMMIT]


def test_a_connection_that_breaks_is_taken_up_where_it_broke(server):
    ranges = []

    def breaks_twice(handler, body):
        ranges.append(handler.headers.get("Range"))
        start = int((ranges[-1] or "bytes=0-")[6:-1])
        end = start + len(body) // 3 if len(ranges) < 3 else len(body)
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Length", str(len(body) - start))
        handler.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        handler.end_headers()
        handler.wfile.write(body[start:end])
        handler.close_connection = True

    answer(server, "model.safetensors", breaks_twice)
    folder = find_checkpoint(NAME).folder
    third = len(weights_of(server)) // 3
    assert ranges == [None, f"bytes={third}-", f"bytes={2 * third}-"]
    assert (folder / "model.safetensors").read_bytes() == weights_of(server)


def plant_part(tmp_path, content: bytes):
    part = tmp_path / "cache" / "hub" / NAME.replace("/", "--") / f"{COMMIT}.part"
    part.mkdir(parents=True)
    (part / "model.safetensors.part").write_bytes(content)
    return part


def test_a_later_call_goes_on_where_a_killed_one_ended(server, tmp_path):
    body = weights_of(server)
    sent = []
    plant_part(tmp_path, body[:1000])
    reply = server.reply
    server.reply = lambda handler, status, body, headers: (
        sent.append(len(body)),
        reply(handler, status, body, headers),
    )
    assert (find_checkpoint(NAME).folder / "model.safetensors").read_bytes() == body
    assert len(body) - 1000 in sent
    assert len(body) not in sent


@pytest.mark.parametrize("extra", [0, 10])
def test_a_wrong_part_of_an_earlier_call_is_removed_and_fetched_anew(server, tmp_path, extra):
    size = len(weights_of(server))
    plant_part(tmp_path, bytes(size + extra))
    if not extra:
        with pytest.raises(CheckpointError, match="another hash than it should have; it was removed"):
            find_checkpoint(NAME)
    assert (find_checkpoint(NAME).folder / "model.safetensors").read_bytes() == weights_of(server)


def test_a_hub_that_cannot_resume_sends_the_whole_again(server, tmp_path):
    plant_part(tmp_path, b"x" * 1000)
    answer(server, "model.safetensors", lambda handler, body: handler.reply(200, body, {}))
    assert (find_checkpoint(NAME).folder / "model.safetensors").read_bytes() == weights_of(server)


def test_a_disk_without_room_is_seen_before_the_first_file(server, monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=hub.SPARE + 1000))
    with pytest.raises(FolderError, match=r"needs 0\.\d GB; the disk has"):
        find_checkpoint(NAME)
    assert all(path.startswith("/api/") for path in server.asked)


def test_a_cache_that_cannot_be_written_is_a_folder_error(server, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(FolderError, match="cannot be stored"):
        find_checkpoint(NAME)


# --- wrong answers ----------------------------------------------------------------------------------------------------


def send(status: int = 200, kind: str = "application/json", body: bytes | None = None, **headers: str):
    def act(handler, whole):
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        handler.reply(status, whole if body is None else body, {"Content-Type": kind, **names})

    return act


def send_without_length(body_of):
    def act(handler, whole):
        handler.send_response(200)
        handler.end_headers()
        for piece in body_of(whole):
            handler.wfile.write(piece)
        handler.close_connection = True

    return act


def endless(whole):
    for _ in range(100_000):
        yield bytes(1 << 16)


def redirect(handler, whole):
    handler.reply(302, b"", {"Location": handler.path})


PAGE = b"<!DOCTYPE html><title>Log in</title>"
LISTINGS = {
    "a page": (send(kind="text/html; charset=utf-8", body=PAGE), "answers with a web page instead of the list"),
    "a page that claims to be JSON": (send(body=PAGE), "list of the model's files is damaged"),
    "nothing": (send(body=b""), "is damaged"),
    "cut": (lambda handler, body: handler.reply(200, body[:-20], {}), "is damaged"),
    "deep": (send(body=b"[" * 100_000), "is damaged"),
    "no object": (send(body=b"[]"), "no list of a model's files"),
    "no files": (send(body=b'{"sha": "0"}'), "no list of a model's files"),
    "files no list": (send(body=b'{"siblings": 7}'), "no list of a model's files"),
    "no commit": (send(body=b'{"siblings": []}'), "names no commit"),
    "a commit with a path": (send(body=b'{"sha": "../../../../../../x", "siblings": []}'), "names no commit"),
    "odd file": (send(body=b'{"sha": "' + COMMIT.encode() + b'", "siblings": [3]}'), "is damaged"),
    "odd name": (send(body=b'{"sha": "' + COMMIT.encode() + b'", "siblings": [{"rfilename": 3}]}'), "is damaged"),
    "error": (send(500), "answers HTTP 500"),
    "endless": (send_without_length(endless), "goes on after"),
    "a circle": (redirect, "redirects"),
}
FILES = {
    "a page": (send(kind="text/html", body=PAGE), "web page instead of model.safetensors"),
    "a page of unknown kind": (send(kind="text/plain", body=PAGE), r"has 36 bytes instead of"),
    "cut, and said so": (lambda handler, body: handler.reply(200, body[:-9], {}), "bytes instead of"),
    "more": (lambda handler, body: handler.reply(200, body + b"more", {}), "bytes instead of"),
    "cut, without a length": (send_without_length(lambda whole: [whole[:-9]]), "ended after"),
    "endless": (send_without_length(endless), "goes on after"),
    "another of its length": (lambda handler, body: handler.reply(200, bytes(len(body)), {}), "another hash"),
    "error": (send(503), "answers HTTP 503"),
    "refused": (send(403), "answers HTTP 403 for .*a token in HF_TOKEN"),
    "a circle": (redirect, "redirects"),
    "a redirect to a file": (send(302, location="file:///etc/passwd"), "file://|protocol"),
}


@pytest.mark.parametrize("kind", LISTINGS)
def test_a_listing_that_is_none_is_named(server, kind):
    act, message = LISTINGS[kind]
    answer(server, "listing", act)
    with pytest.raises(CheckpointError, match=f"The model hub did not give {NAME}: .*({message})"):
        find_checkpoint(NAME)


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_is_another_is_named_and_no_model_is_left(server, tmp_path, kind):
    act, message = FILES[kind]
    answer(server, "model.safetensors", act)
    with pytest.raises(CheckpointError, match=f"The model hub did not give {NAME}: .*({message})"):
        find_checkpoint(NAME)
    assert not list((tmp_path / "cache").rglob("model.safetensors"))
    server.misbehave = staticmethod(lambda *_: False)
    assert (find_checkpoint(NAME).folder / "model.safetensors").read_bytes() == weights_of(server)


def test_a_small_file_with_another_content_is_noticed(server):
    answer(server, "config.json", lambda handler, body: handler.reply(200, body.replace(b"16", b"32"), {}))
    with pytest.raises(CheckpointError, match=r"config\.json has another hash"):
        find_checkpoint(NAME)


def test_a_file_that_comes_too_slowly_is_given_up_and_its_part_stays(server, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "START_SECONDS", 0.3)
    monkeypatch.setattr(hub, "SLOWEST", 1e9)

    def drip(handler, body):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        for byte in body[:100]:
            handler.wfile.write(bytes([byte]))
            time.sleep(0.05)

    answer(server, "model.safetensors", drip)
    start = time.monotonic()
    with pytest.raises(CheckpointError, match=r"model\.safetensors comes too slowly"):
        find_checkpoint(NAME)
    assert time.monotonic() - start < 4
    assert list((tmp_path / "cache").rglob("model.safetensors.part"))


def test_names_out_of_the_folder_are_not_fetched(server):
    files = server.models[NAME]
    server.models[NAME] = files | {"../evil.json": b"{}", "a/b.json": b"{}", "..json": b"{}", ".hidden.json": b"{}"}
    assert sorted(path.name for path in find_checkpoint(NAME).folder.iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("name", ["a/../b", "a/..", "-x/y", "a/b c", "a/b?x=1", "a/b%2fc"])
def test_a_name_that_no_hub_has_is_not_asked_for(server, name):
    with pytest.raises(CheckpointError, match="no model"):
        find_checkpoint(name)
    assert not server.asked


def test_an_earlier_download_serves_while_the_hub_answers_nonsense(server):
    folder = find_checkpoint(NAME).folder
    answer(server, "listing", send(kind="text/html", body=PAGE))
    assert find_checkpoint(NAME).folder == folder


def test_an_endpoint_that_is_no_address_is_named(server, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        for address in ("no address", "http://", "ftp://x", f"http://127.0.0.1:{taken.getsockname()[1]}"):
            monkeypatch.setenv("HF_ENDPOINT", address)
            with pytest.raises(CheckpointError, match="did not give"):
                find_checkpoint(NAME)


@pytest.mark.parametrize(
    ("name", "value"),
    [("SSL_CERT_FILE", "/no/certificates.pem"), ("SSL_CERT_FILE", __file__), ("ALL_PROXY", "socks5://u:hidden@h:1")],
)
def test_settings_of_the_connection_that_cannot_be_used_are_named(server, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(CheckpointError, match=f"did not give {NAME}: no connection can be made.*{name}") as raised:
        hub.download(NAME, "hint")
    assert "hidden" not in str(raised.value)
