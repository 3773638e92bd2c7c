"""Voice presets: written, read, and refused where they are wrong."""

from __future__ import annotations

import io
import os
import pickle
import random
import tracemalloc
import zipfile

import numpy as np
import pytest
from small_folder import flip, refuses

from labsupport.bark import voices
from labsupport.base.errors import BarkError


def test_a_voice_is_read_as_it_was_written(tmp_path):
    voice = voices.make_random(seed=3)
    voices.write(voice, tmp_path / "me.npz")
    again = voices.read(tmp_path / "me.npz")
    assert all(np.array_equal(getattr(voice, part), getattr(again, part)) for part in ("semantic", "coarse", "fine"))
    assert [file.name for file in tmp_path.iterdir()] == ["me.npz"]
    assert (voice.semantic.shape, voice.coarse.shape) == ((100,), (2, 150))


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_voice_that_needs_pickle_is_not_read(tmp_path):
    parts = vars(voices.make_random()).copy()
    parts["semantic"] = np.array([Bomb(tmp_path / "ran")], dtype=object)
    np.savez(tmp_path / "bad.npz", **{f"{part}_prompt": array for part, array in parts.items()})
    with pytest.raises(BarkError, match="pickle"):
        voices.read(tmp_path / "bad.npz")
    assert not (tmp_path / "ran").exists()
    (tmp_path / "bare.npz").write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    with pytest.raises(BarkError, match="no voice"):
        voices.read(tmp_path / "bare.npz")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fine": None}, "lacks fine_prompt"),
        ({"coarse": np.zeros((3, 5), int)}, r"coarse_prompt has the shape \(3, 5\), not \(2, n\)"),
        ({"semantic": np.zeros((2, 5), int)}, r"not \(n\)"),
        ({"semantic": np.zeros(0, int)}, r"the shape \(0,\)"),
        ({"fine": np.full((8, 4), 1024)}, "0 to 1023"),
        ({"semantic": np.array([-1, 4])}, "from -1"),
        ({"semantic": np.array([0.5, 1.0])}, "float64"),
    ],
)
def test_a_wrong_part_is_named(tmp_path, changes, message):
    parts = vars(voices.make_random()) | changes
    given = {f"{part}_prompt": array for part, array in parts.items() if array is not None}
    np.savez(tmp_path / "bad.npz", **given)
    with pytest.raises(BarkError, match=message):
        voices.read(tmp_path / "bad.npz")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", b"no archive at all"])
def test_a_file_that_is_no_npz_is_no_voice(tmp_path, content):
    (tmp_path / "bad.npz").write_bytes(content)
    with pytest.raises(BarkError):
        voices.read(tmp_path / "bad.npz")


def test_a_single_array_and_a_missing_file_are_no_voice(tmp_path):
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(BarkError):
        voices.read(tmp_path / "one.npy")
    with pytest.raises(BarkError, match="no such voice"):
        voices.read(tmp_path / "none.npz")


# --- hostile files ----------------------------------------------------------------------------------------------------

SEED = int(os.environ.get("LAB_FUZZ_SEED", "17"))


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def header(text: str, data: bytes = b"", version: bytes = b"\1\0") -> bytes:
    return b"\x93NUMPY" + version + len(text).to_bytes(2, "little") + text.encode() + data


def write_parts(path, method=zipfile.ZIP_STORED, **parts: bytes):
    """A voice, some of whose parts are these bytes."""
    voice = voices.make_random()
    whole = {"semantic": npy(voice.semantic), "coarse": npy(voice.coarse), "fine": npy(voice.fine)}
    with zipfile.ZipFile(path, "w", method) as archive:
        for part, content in (whole | parts).items():
            archive.writestr(f"{part}_prompt.npy", content)
    return path


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        b"\x93NUMPY\x09\x09",
        header("{'descr': '<i8', 'fortran_order': False, 'shape': (2147483648,)}"),  # 16 GB
        header("{'descr': '<i8', 'fortran_order': False, 'shape': (99999999999999999999999,)}"),
        header("{'descr': '<i8', 'fortran_order': False, 'shape': (-1,)}", bytes(8)),
        header("{'descr': '<i8', 'fortran_order': False, 'shape': (2,)}", bytes(8)),
        header("{'descr': '<i8', 'fortran_order': False, 'shape': (2,)}", bytes(24)),
        header("{'descr': '<i8', 'fortran_order': False, 'shape': 2}", bytes(16)),
        header("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", pickle.dumps([1])),
        header("{'descr': [('a', '<i8'), ('b', '|O')], 'fortran_order': False, 'shape': (1,)}", bytes(16)),
        header("{'descr': '<i8', 'fortran_order': None, 'shape': (1,)}", bytes(8)),
        header("{'descr': ['<i8'], 'fortran_order': False, 'shape': (1,)}", bytes(8)),
        header("{'descr': 'colour', 'fortran_order': False, 'shape': (1,)}", bytes(8)),
        header("{'descr': '<i8'}"),
        header("__import__('os').abort()"),
        header("(" * 5000),
        header("{'a': " + "[" * 4000),
        header("-" * 9000 + "1"),
        header("x" * 60_000),
    ],
    ids=lambda content: repr(content[10:50]),
)
def test_a_part_that_is_not_what_its_header_says_is_refused(tmp_path, content):
    with pytest.raises(BarkError, match="no voice"):
        voices.read(write_parts(tmp_path / "bad.npz", semantic=content))


def test_a_part_that_unpacks_to_gigabytes_is_not_unpacked(tmp_path):
    path, zeros = tmp_path / "bad.npz", bytes(1 << 20)
    voice = voices.make_random()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("semantic_prompt.npy", npy(voice.semantic))
        archive.writestr("coarse_prompt.npy", npy(voice.coarse))
        with archive.open("fine_prompt.npy", "w", force_zip64=True) as file:
            file.write(header("{'descr': '<i8', 'fortran_order': False, 'shape': (8, 33554432)}"))
            for _ in range(300):
                file.write(zeros)
    assert path.stat().st_size < 3 << 20
    tracemalloc.start()
    try:
        with pytest.raises(BarkError, match="fine_prompt has more than 64 MB"):
            voices.read(path)
        assert tracemalloc.get_traced_memory()[1] < 200 << 20
    finally:
        tracemalloc.stop()


def test_an_encrypted_voice_is_refused(tmp_path):
    path = write_parts(tmp_path / "bad.npz")
    content = bytearray(path.read_bytes())
    for mark, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):  # local and central headers: where their flags stand
        place = content.find(mark)
        while place >= 0:
            content[place + flags] |= 1
            place = content.find(mark, place + 4)
    path.write_bytes(content)
    with pytest.raises(BarkError, match=r"no voice: .*encrypted"):
        voices.read(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_voices_damaged_at_random_are_read_or_refused_and_nothing_else(tmp_path, method):
    """The seed is LAB_FUZZ_SEED, else 17."""
    path, rng, refused = write_parts(tmp_path / "bad.npz", method), random.Random(SEED), 0
    whole = path.read_bytes()
    for _ in range(400):
        path.write_bytes(flip(whole, rng))
        refused += refuses(lambda: voices.read(path), BarkError)
    assert refused > 200


def test_a_folder_is_no_voice(tmp_path):
    with pytest.raises(BarkError, match="no file"):
        voices.read(tmp_path)


def test_a_voice_with_its_columns_first_is_the_same(tmp_path):
    voice = voices.make_random()
    np.savez(tmp_path / "a.npz", **{f"{part}_prompt": np.asfortranarray(array) for part, array in vars(voice).items()})
    again = voices.read(tmp_path / "a.npz")
    assert all(np.array_equal(getattr(voice, part), getattr(again, part)) for part in vars(voice))
