"""Reads audio: any common file becomes float32 mono samples at 16 kHz; every kind of bad file has its own message."""

from __future__ import annotations

import io
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from labsupport.base import paths
from labsupport.base.errors import AudioError

if TYPE_CHECKING:
    import soundfile

SAMPLE_RATE = 16_000  # Hz, the rate that every Whisper was trained on
UNKNOWN_FRAMES = 1 << 62  # libsndfile gives more frames than this for "unknown"
UNKNOWN_DATA_SIZE = 0x7FFFF000  # the smallest size that wav writers put for "unknown"
MP3_TOLERANCE = 2 * 1152  # samples; encoders differ in whether they count their first and last frame


@dataclass(frozen=True)
class Clip:
    """A recording of `seconds` that the course ships, as its card describes it: `text` is exactly what is spoken."""

    name: str
    path: Path
    text: str
    source: str
    licence: str
    sha256: str
    seconds: float
    language: str


def clips() -> list[Clip]:
    """Every clip that has a card in data/audio, by name."""
    return [_read_card(card) for card in sorted(paths.AUDIO.glob("*.toml"))]


def clip(name: str) -> Clip:
    """The clip called `name`; AudioError where no card has that name."""
    known = {each.name: each for each in clips()}
    if name not in known:
        raise AudioError(f"There is no clip called {name!r}.", where=paths.AUDIO, hint=f"Known: {', '.join(known)}.")
    return known[name]


def _read_card(card: Path) -> Clip:
    entry = paths.read_toml(card)
    fields = {key: entry[key] for key in ("name", "text", "source", "licence", "sha256", "seconds", "language")}
    return Clip(path=card.parent / entry["file"], **fields)


def windows(samples: np.ndarray, seconds: float = 30.0) -> list[np.ndarray]:
    """Cuts float32 `samples` (samples,) at 16 kHz into windows of `seconds`, in order.

    The last window is shorter where samples are left over; nothing is padded or copied (the windows are views).
    ValueError where a window is shorter than one sample.
    """
    check_samples(samples)
    size = round(seconds * SAMPLE_RATE)
    if size < 1:
        raise ValueError(f"a window of {seconds} s holds no sample at {SAMPLE_RATE} Hz")
    return [samples[start : start + size] for start in range(0, len(samples), size)]


def check_samples(samples: np.ndarray) -> None:
    """Raises AudioError unless `samples` is a float32 vector with at least one sample."""
    if not isinstance(samples, np.ndarray) or samples.ndim != 1 or samples.dtype != np.float32:
        found = f"{getattr(samples, 'dtype', type(samples).__name__)} {getattr(samples, 'shape', '')}".strip()
        raise AudioError(f"Expected a float32 array of shape (samples,), got {found}.", hint="audio.read gives one.")
    if not len(samples):
        raise AudioError("The array has no samples.")


def read(path: str | Path) -> np.ndarray:
    """Decodes an audio file into float32 samples (samples,), mono, 16 kHz.

    Takes wav, flac, mp3, ogg (Vorbis, Opus) and whatever else libsndfile knows, at any rate, bit depth and number of
    channels; channels are averaged, rates converted by soxr at its high quality. Full scale is ±1; a float file that
    goes beyond is not clipped. Every file with at least one sample gives at least one.

    Raises:
        AudioError: the file is missing, unreadable, no audio, empty, damaged, holds numbers that are not finite, or was
            cut, as far as it shows that: a wav by its data size, a FLAC by its sample count, an Ogg by the end mark
            on its last page, an mp3 by the frame count in its Xing header. Not found: the loss of an mp3 without that
            header, or of its last 2304 samples; of a wav that was streamed without a size, or is an RF64 or W64; of
            anything cut before it was encoded.
    """
    path = Path(path)
    with _open(path) as stream:
        samples, rate = _decode(stream, path)
    if not len(samples):
        hint = "A recording that was interrupted may have left its size at 0."
        raise AudioError("The file holds no sound at all.", where=path, hint=hint)
    if not np.isfinite(samples).all():
        first = np.flatnonzero(~np.isfinite(samples))[0] / rate
        hint = "The program that wrote the file divided by zero or overflowed; write it again."
        raise AudioError(f"A sample at {first:.3f} s is not a finite number.", where=path, hint=hint)
    return _resample(samples, rate)


def _open(path: Path) -> BinaryIO:
    """Opens a regular file that is not empty; AudioError says why it fails."""
    try:
        if path.is_dir():
            raise AudioError("This is a folder, not an audio file.", where=path, hint="Name a file in it.")
        if path.exists() and not path.is_file():
            raise AudioError("This is not a regular file.", where=path)  # a pipe would block, a device never end
        if path.stat().st_size == 0:
            hint = "The program that wrote it failed; copy or record it again."
            raise AudioError("The file is empty (0 bytes).", where=path, hint=hint)
        return path.open("rb")
    except (FileNotFoundError, NotADirectoryError) as error:
        hint = "Check the spelling and the folder."
        raise AudioError("There is no such file.", where=path, hint=hint) from error
    except PermissionError as error:
        hint = "Change its permissions, or copy it to a folder of yours."
        raise AudioError("This user may not read the file.", where=path, hint=hint) from error


def _decode(stream: BinaryIO, path: Path) -> tuple[np.ndarray, int]:
    """Gives mono float32 samples (samples,) and their rate in Hz."""
    import soundfile

    if path.suffix.lower() == ".raw":
        raise AudioError("A .raw file does not say what its bytes mean.", where=path, hint="Give it a wav header.")
    try:
        sound = soundfile.SoundFile(stream)
    except soundfile.LibsndfileError as error:
        if _starts_like_audio(stream):
            raise _cut_off_error("its header breaks off or is damaged", path) from error
        hint = "Takes wav, flac, mp3 and ogg; ffmpeg converts most others: ffmpeg -i INPUT output.flac"
        raise AudioError("This is no audio that can be decoded.", where=path, hint=hint) from error
    with sound:
        if sound.frames > UNKNOWN_FRAMES:
            raise _unknown_length("This FLAC", path)
        try:
            # in one call: soundfile seeks between calls, and then reads over a gap in an Ogg without an error
            samples = sound.read(dtype="float32", always_2d=True).mean(axis=1)
        except soundfile.LibsndfileError as error:
            raise _cut_off_error("decoding breaks off before its end", path) from error
        _check_complete(sound, stream, len(samples), path)
        return samples, sound.samplerate


def _resample(samples: np.ndarray, rate: int) -> np.ndarray:
    if rate == SAMPLE_RATE:
        return samples
    import soxr

    shortest = math.ceil(rate / SAMPLE_RATE)  # fewer would give no sample
    padded = np.pad(samples, (0, max(0, shortest - len(samples))))
    return soxr.resample(padded, rate, SAMPLE_RATE, quality="HQ")


# --- is the file complete? -----------------------------------------------------------------------------------------


def _cut_off_error(how: str, path: Path) -> AudioError:
    hint = "Copy or download it again; to use what is left: ffmpeg -i INPUT output.wav"
    return AudioError(f"The file is cut off or damaged: {how}.", where=path, hint=hint)


def _starts_like_audio(stream: BinaryIO) -> bool:
    stream.seek(0)
    return re.match(rb"RIFF....WAVE|fLaC|OggS", stream.read(12), re.DOTALL) is not None


def _unknown_length(what: str, path: Path) -> AudioError:
    hint = "Convert it first: ffmpeg -i INPUT output.wav"
    return AudioError(f"{what} does not say how long it is, so its end might be lost.", where=path, hint=hint)


def _check_complete(sound: soundfile.SoundFile, stream: BinaryIO, decoded: int, path: Path) -> None:
    """Raises AudioError if less was decoded than the file states, or the decoder stopped before its end."""
    stopped = stream.tell()
    if sound.format == "MP3" and not _has_frame_count(stream):
        # here `frames` is libsndfile's guess from the first bitrate, too high or too low
        if decoded == sound.frames and _has_mp3_frames(stream, stopped):
            raise _unknown_length("This mp3", path)
        return
    if decoded + (MP3_TOLERANCE if sound.format == "MP3" else 0) < sound.frames:
        stated, found = sound.frames / sound.samplerate, decoded / sound.samplerate
        raise _cut_off_error(f"it should hold {stated:.2f} s and holds {found:.2f} s", path)
    if missing := _count_missing_bytes(sound.extra_info):
        raise _cut_off_error(f"{missing} bytes of sound are missing at its end", path)
    if sound.format == "OGG" and not _has_last_page(stream):
        raise _cut_off_error("its last page does not carry the end mark", path)


def _count_missing_bytes(log: str) -> int:
    """From libsndfile's log of a wav or aiff: the data chunk's stated size, and in brackets the size that is there."""
    found = re.search(r"^ *(?:data|SSND) : (\d+) \(should be (\d+)\)", log, re.MULTILINE)
    stated, present = (int(found[1]), int(found[2])) if found else (0, 0)
    return max(0, stated - present) if stated < UNKNOWN_DATA_SIZE else 0


def _has_last_page(stream: BinaryIO) -> bool:
    """Whether the last Ogg page is whole and marked as the end of its stream (RFC 3533, section 6)."""
    stream.seek(max(0, stream.seek(0, os.SEEK_END) - 65_307))  # the largest page there can be
    _, mark, page = stream.read().rpartition(b"OggS")
    if not mark or len(page) < 23:
        return False
    whole = len(page) >= 23 + page[22] + sum(page[23 : 23 + page[22]])
    return whole and bool(page[1] & 4)


def _has_frame_count(stream: BinaryIO) -> bool:
    """Whether an mp3's first frame is a Xing, Info or VBRI header, which counts the frames."""
    stream.seek(0)
    tag = stream.read(10)
    size = sum(byte << shift for byte, shift in zip(tag[6:], (21, 14, 7, 0), strict=True))
    stream.seek(10 + size if tag[:3] == b"ID3" else 0)
    return re.search(rb"Xing|Info|VBRI", stream.read(200)) is not None


def _has_mp3_frames(stream: BinaryIO, start: int) -> bool:
    """Whether there is mp3 audio from byte `start` on that can be decoded."""
    import soundfile

    stream.seek(start)
    try:
        with soundfile.SoundFile(io.BytesIO(stream.read())) as rest:
            return rest.format == "MP3"
    except soundfile.LibsndfileError:
        return False
