"""Reads audio: any file with sound becomes float32 mono samples at 16 kHz; every kind of bad file has its message."""

from __future__ import annotations

import errno
import math
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from labsupport.base import paths
from labsupport.base.errors import AudioError, AudioLimitError
from labsupport.speech import decoding
from labsupport.speech.mixing import SAMPLE_RATE, Mixer, Resampler
from labsupport.speech.parts import Source, measure

BLOCK = 30 * SAMPLE_RATE  # samples that read_blocks gives at once
SPEECH_RATE = 1000  # Hz: below it no speech is left, and a small file claims hours
LOW_RATE_SECONDS = 120


@dataclass(frozen=True)
class Limits:
    """The most that is read; more is an AudioError, before anything is decoded where the header states it.

    Memory needs no limit of its own: `read_blocks` holds a few MB, and `read` 64 kB for each second.
    """

    seconds: float = 12 * 3600  # of all the recordings in the file
    channels: int = 64
    rate: int = 768_000  # Hz


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


def read(
    path: str | Path | BinaryIO,
    channel: int | None = None,
    limits: Limits = Limits(),
    track: int | None = None,
    allow_damaged: bool = False,
) -> np.ndarray:
    """Decodes a file's sound into float32 samples (samples,), mono, 16 kHz.

    Takes what libsndfile and FFmpeg can decode: wav, flac, mp3, ogg, m4a, webm, wma, amr, a video's sound and many
    more, at any rate, bit depth and number of channels. `path` may be a binary file that can seek, such as standard
    input that was stored; its `name` stands in messages. Recordings that are joined in one file (chained Ogg, joined
    mp3, flac, wav, mp4 and others) come one after the other. Full scale is ±1; a float file that goes beyond is not
    clipped. Every file with at least one sample gives at least one.

    Of several audio tracks, `track` is read, counted from 1, else the one that FFmpeg holds for the best. Where a
    container's clock says that sound comes later (a video whose sound begins late, a microphone that was muted, a loss)
    silence stands. With `allow_damaged`, what can be decoded of a file that is cut off or damaged is given. What a user
    should know of all this goes to the log, as warnings of `labsupport.speech`.

    Channels are averaged, as far as they do not cancel each other (see mixing.Mixer); `channel` chooses one, from 1 on.
    Rates are converted by soxr at its high quality; one below 1000 Hz carries no speech, and 120 s at most are taken.

    Raises:
        AudioError: the file is missing, unreadable, no audio, without sound, empty, encrypted, of a codec that is not
            supported, damaged, beyond a limit, holds numbers that are not finite, or was cut, as far as it shows that:
            a wav, aiff, au, caf, w64, avi, wma, mp4 or m4a by its sizes, a FLAC by its sample count, an Ogg by the end
            mark on its last page, webm and mkv by the sizes of their elements, an mp3 by the frame count in its Xing
            header, others by the duration that they state. Not found: the loss of an mp3 without that header, or of
            its last 2304 samples; of a wav, webm or mp4 that was streamed without a size and is cut between two blocks;
            of AMR, raw AAC, AC-3 or MPEG streams, which have no sizes; damage inside of WavPack, AVI, and of samples
            that are not compressed; of anything cut before it was encoded.
    """
    samples = bytearray()  # grows in place, where a list of blocks would need as much again to join them
    for block in read_blocks(path, channel, limits, track, allow_damaged):
        samples += block.tobytes()
    return np.frombuffer(samples, np.float32)


def read_blocks(
    path: str | Path | BinaryIO,
    channel: int | None = None,
    limits: Limits = Limits(),
    track: int | None = None,
    allow_damaged: bool = False,
) -> Iterator[np.ndarray]:
    """Gives what `read` gives in blocks of 30 s (the last is shorter), and holds little more than one at a time.

    The errors are those of `read`; what is found only at the end of the sound is raised there.
    """
    with _open(path) as (file, where):
        source = Source(where, track, allow_damaged)
        yield from _join_blocks(_convert(file, source, channel, limits), where)


def count_channels(path: str | Path | BinaryIO, track: int | None = None, allow_damaged: bool = False) -> int:
    """The number of channels in which the sound begins; AudioError as in `read`, as far as the header shows it."""
    with (
        _open(path) as (file, where),
        closing(decoding.open_parts(file, Source(where, track, allow_damaged))) as decoders,
    ):
        return next(decoders).channels


def duration(path: str | Path | BinaryIO, track: int | None = None, allow_damaged: bool = False) -> float | None:
    """Seconds of sound by the header, which may be a guess from the bit rate; None where nothing tells it."""
    with _open(path) as (file, where):
        seconds = [decoder.seconds for decoder in decoding.open_parts(file, Source(where, track, allow_damaged))]
    return None if None in seconds else sum(filter(None, seconds))


# --- opening ---------------------------------------------------------------------------------------------------------


@contextmanager
def _open(path: str | Path | BinaryIO) -> Iterator[tuple[BinaryIO, object]]:
    """Gives the file and its name for messages; whatever goes wrong with it meanwhile becomes an AudioError."""
    if isinstance(path, (str, Path)):
        where: object = Path(path)
    else:
        name = getattr(path, "name", None)
        where = name if isinstance(name, str) else "standard input"
    try:
        with _open_regular(Path(path)) if isinstance(path, (str, Path)) else nullcontext(path) as file:
            _check_not_empty(file, where)
            yield file, where
    except OSError as error:
        raise _system_error(error, where) from error
    except MemoryError as error:
        hint = "Cut it into shorter files: ffmpeg -i INPUT -f segment -segment_time 3600 part%d.flac"
        raise AudioError("The sound does not fit into this machine's memory.", where=where, hint=hint) from error
    except OverflowError as error:
        raise Source(where).damage_error("a number in it is too large") from error


def _open_regular(path: Path) -> BinaryIO:
    """Opens a regular file that is not empty; AudioError says why it fails."""
    try:
        if path.is_dir():
            raise AudioError("This is a folder, not an audio file.", where=path, hint="Name a file in it.")
        if path.exists() and not path.is_file():
            hint = "Store its sound in a file first, or give it as standard input (-)."
            raise AudioError("This is not a regular file.", where=path, hint=hint)  # a pipe blocks, a device never ends
        if path.suffix.lower() == ".raw":
            raise AudioError("A .raw file does not say what its bytes mean.", where=path, hint="Give it a wav header.")
        return path.open("rb")
    except ValueError as error:  # a NUL, or a character that the file system's encoding lacks
        hint = "Check the spelling; a name must not hold such characters."
        raise AudioError("No file can have this name.", where=path, hint=hint) from error


def _check_not_empty(file: BinaryIO, where: object) -> None:
    if not measure(file):
        hint = "The program that wrote it failed; copy or record it again."
        raise AudioError("The file is empty (0 bytes).", where=where, hint=hint)


SYSTEM_ERRORS = {  # errno: what it means here, and what to do
    errno.ENOENT: ("There is no such file.", "Check the spelling and the folder."),
    errno.ENOTDIR: ("There is no such file.", "Check the spelling and the folder."),
    errno.EACCES: ("This user may not read the file.", "Change its permissions, or copy it to a folder of yours."),
    errno.ELOOP: ("This is a symbolic link that leads back to itself.", "Remove it, and link the file again."),
    errno.ENAMETOOLONG: ("The name is longer than this system allows.", "Check the spelling, or shorten the name."),
}


def _system_error(error: OSError, where: object) -> AudioError:
    otherwise = (
        f"The file cannot be read: {error.strerror or error}.",
        "Check the disk or connection, or copy it again.",
    )
    what, hint = SYSTEM_ERRORS.get(error.errno or 0, otherwise)
    return AudioError(what, where=where, hint=hint)


# --- decoding, mixing, converting ------------------------------------------------------------------------------------


def _convert(file: BinaryIO, source: Source, channel: int | None, limits: Limits) -> Iterator[np.ndarray]:
    """Gives all the sound of a file as mono float32 pieces of any length at 16 kHz."""
    converter = Converter(source.where, channel, limits)
    for decoder in decoding.open_parts(file, source):
        source.offset = converter.seconds
        converter.check(decoder.rate, decoder.channels, decoder.stated or 0)
        for frames, rate in decoder.blocks():
            yield from converter.convert(frames, rate)
    yield converter.finish()


class Converter:
    """Mixes and resamples one decoded block after the other, and holds each to the limits."""

    def __init__(self, where: object, channel: int | None, limits: Limits):
        self.where, self.channel, self.limits = where, channel, limits
        self.seconds = 0.0  # of sound so far
        self.form: tuple[int, int] | None = None  # rate and channels of the last block
        self.mixer: Mixer
        self.resampler: Resampler

    def check(self, rate: int, channels: int, seconds: float) -> None:
        """Raises AudioError if sound of this form, which goes on for `seconds` more, must not or cannot be read."""
        if not 1 <= rate <= self.limits.rate:
            hint = f"The limit is {self.limits.rate} Hz; with the right rate: ffmpeg -ar RATE -i INPUT output.wav"
            raise AudioError(f"A rate of {rate} Hz cannot be right.", where=self.where, hint=hint)
        if channels > self.limits.channels:
            hint = f"`--max-channels {channels}` allows it."
            raise AudioLimitError(f"The sound has {channels} channels.", where=self.where, hint=hint)
        if self.channel is not None and not 1 <= self.channel <= channels:
            hint = f"It has {channels}, counted from 1."
            raise AudioError(f"There is no channel {self.channel}.", where=self.where, hint=hint)
        self._check_duration(rate, self.seconds + seconds)

    def _check_duration(self, rate: int, seconds: float) -> None:
        hours = seconds / 3600
        if seconds > self.limits.seconds:
            hint = f"`--max-hours {math.ceil(hours)}` allows it."
            what = f"The sound lasts {hours:.4g} hours, or its header is wrong."
            raise AudioLimitError(what, where=self.where, hint=hint)
        if rate < SPEECH_RATE and seconds > LOW_RATE_SECONDS:
            hint = "With the right rate: ffmpeg -ar RATE -i INPUT output.wav"
            what = f"At a rate of {rate} Hz it would last {hours:.2g} hours and carry no speech."
            raise AudioError(what, where=self.where, hint=hint)

    def convert(self, frames: np.ndarray, rate: int) -> Iterator[np.ndarray]:
        """`frames` (frames, channels) float32 at any rate -> pieces (samples,) float32 at 16 kHz."""
        channels = frames.shape[1]
        if self.form != (rate, channels):
            yield self.finish()
            self.check(rate, channels, 0)
            self.form, self.mixer, self.resampler = (rate, channels), Mixer(channels, rate), Resampler(rate)
        if self.channel:
            frames = frames[:, self.channel - 1 : self.channel]
        self._check_finite(frames, rate)
        samples = self.resampler.feed(frames[:, 0] if self.channel else self.mixer.mix(frames))
        self._check_finite(samples, SAMPLE_RATE)  # the filter overshoots the largest numbers
        self.seconds += len(frames) / rate
        self._check_duration(rate, self.seconds)
        yield samples

    def finish(self) -> np.ndarray:
        samples = self.resampler.finish() if self.form else np.zeros(0, np.float32)
        self._check_finite(samples, SAMPLE_RATE)
        return samples

    def _check_finite(self, samples: np.ndarray, rate: int) -> None:
        wrong = np.argwhere(~np.isfinite(samples))
        if len(wrong):
            first = self.seconds + wrong[0, 0] / rate
            hint = "The program that wrote the file divided by zero or overflowed; write it again."
            raise AudioError(f"A sample at {first:.3f} s is not a finite number.", where=self.where, hint=hint)


def _join_blocks(pieces: Iterator[np.ndarray], where: object) -> Iterator[np.ndarray]:
    """Pieces of any length -> blocks of 30 s and a last one; AudioError if there is no sample at all."""
    held: list[np.ndarray] = []
    count = total = 0
    for piece in pieces:
        held.append(piece)
        count, total = count + len(piece), total + len(piece)
        while count >= BLOCK:
            joined = np.concatenate(held)
            yield joined[:BLOCK]
            held, count = [joined[BLOCK:]], count - BLOCK
    if not total:
        hint = "The program that recorded it wrote a header and nothing more; record it again."
        raise AudioError("The file holds no sound at all.", where=where, hint=hint)
    if count:
        yield np.concatenate(held)
