"""Voice presets: written, read, and refused where they are wrong."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

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
