"""Odd audio files, as users have them and as public bug reports of speech tools describe them, built from one clip.

`build("joined.mp3")` gives the bytes of one, `write(folder, "joined.mp3")` a file; FILES names them all.
"""

from __future__ import annotations

import functools
import io
import os
import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import soundfile
import soxr

from labsupport.base.paths import AUDIO
from labsupport.speech import ogg_pages

START = 4.6  # seconds of the clip that start.wav and the wide formats hold
ODD_NAME = "two words 'single' \"double\" é 日本.wav"
DASH_NAME = "-clip.wav"
BYTE_NAME = os.fsdecode(b"caf\xe9.wav")  # Latin-1 bytes: no valid UTF-8
BYTE_MISSING = os.fsdecode(b"missing_\xe9.wav")
LONG_NAME = "n" * 300 + ".wav"
ID3 = b"ID3\x04\x00\x00\x00\x00\x02\x00" + bytes(256)  # an empty tag of 256 bytes
ID3V1 = b"TAG" + bytes(125)


# --- sound -----------------------------------------------------------------------------------------------------------


@functools.cache
def speech(rate: int = 8000, seconds: float = 11.0) -> np.ndarray:
    """The start of the clip as float64 (samples,)."""
    samples, given = soundfile.read(AUDIO / "jfk.flac")
    return soxr.resample(samples, given, rate)[: round(seconds * rate)]


def to_int16(samples: np.ndarray) -> bytes:
    return np.round(np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()


def to_int24(samples: np.ndarray) -> bytes:
    wide = np.round(np.clip(samples, -1, 1) * 8388607).astype("<i4")
    return wide.view("u1").reshape(-1, 4)[:, :3].tobytes()


def to_uint8(samples: np.ndarray) -> bytes:
    return (np.round(np.clip(samples, -1, 1) * 127) + 128).astype("u1").tobytes()


# --- containers ------------------------------------------------------------------------------------------------------


def make_wav(
    data: bytes, rate: int, bits: int = 16, channels: int = 1, tag: int = 1, claim: int | None = None
) -> bytes:
    """A wav with a 44 byte header; `claim` is what the data size field says (and RIFF's, as far as it goes)."""
    size = len(data) if claim is None else claim
    riff = 36 + len(data) if claim is None else (0 if claim == 0 else min(claim + 36, 0xFFFFFFFF))
    block = channels * bits // 8
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, tag, channels, rate, min(rate * block, 0xFFFFFFFF), block, bits)
    return struct.pack("<4sI4s", b"RIFF", riff, b"WAVE") + form + struct.pack("<4sI", b"data", size) + data


def with_soundfile(samples: np.ndarray, rate: int, form: str, subtype: str, **how) -> bytes:
    """Encodes (samples,) or (samples, channels) through libsndfile, a second at a time: more at once crashes Vorbis."""
    stream = io.BytesIO()
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    with soundfile.SoundFile(stream, "w", rate, channels, subtype, format=form, **how) as sound:
        for start in range(0, len(samples), rate):
            sound.write(samples[start : start + rate])
    return stream.getvalue()


def with_ffmpeg(
    samples: np.ndarray,
    rate: int,
    muxer: str,
    codec: str,
    bit_rate: int = 0,
    video: bool = False,
    later: tuple[float, float] = (0, 0),
    pictures: float | None = None,
    **options: str,
) -> bytes:
    """Encodes (samples,) or (samples, channels) through PyAV; with `video`, beside a small grey picture.

    pictures: seconds of them; as long as the sound by default.
    later: (from, by) in seconds: what begins there comes so much later by the container's clock.
    """
    stream = io.BytesIO()
    layout = "mono" if samples.ndim == 1 else {2: "stereo", 6: "5.1"}[samples.shape[1]]
    with av.open(stream, "w", format=muxer, container_options={"fflags": "+bitexact"} | options) as container:
        picture = _add_picture(container) if video else None
        sound = container.add_stream(codec, rate=rate, layout=layout)
        sound.codec_context.flags |= 1 << 23  # bitexact
        if bit_rate:
            sound.bit_rate = bit_rate
        if picture:
            _encode_pictures(container, picture, round((pictures or len(samples) / rate) * 2))
        for part in _frames(samples, rate, layout, sound.codec_context):
            container.mux(_delay(sound.encode(part), *later))
        container.mux(_delay(sound.encode(None), *later))
    return stream.getvalue()


def with_tracks(tracks: Sequence[np.ndarray], rate: int, titles: Sequence[str] = ()) -> bytes:
    """A mkv with an audio track for each of `tracks` (samples,), FLAC; (0,) has no packet."""
    stream = io.BytesIO()
    with av.open(stream, "w", format="matroska") as container:
        added = [container.add_stream("flac", rate=rate, layout="mono") for _ in tracks]
        for sound, title in zip(added, titles, strict=False):
            sound.metadata["title"] = title
        for sound, samples in zip(added, tracks, strict=True):
            frames = _frames(samples, rate, "mono", sound.codec_context) if len(samples) else []
            for part in [*frames, None]:
                container.mux(sound.encode(part))
    return stream.getvalue()


def _delay(packets: list[av.Packet], start: float, seconds: float) -> list[av.Packet]:
    for packet in packets:
        if packet.pts * packet.time_base >= start:
            packet.pts += round(seconds / packet.time_base)
            packet.dts = packet.pts
    return packets


def _frames(samples: np.ndarray, rate: int, layout: str, codec: av.AudioCodecContext) -> list[av.AudioFrame]:
    planes = np.ascontiguousarray(np.atleast_2d(samples.T), np.float32)
    frame = av.AudioFrame.from_ndarray(planes, format="fltp", layout=layout)
    frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
    size = codec.frame_size or 1024
    resampler = av.AudioResampler(format=codec.format, layout=layout, rate=rate, frame_size=size)
    return [*resampler.resample(frame), *resampler.resample(None)]


def _add_picture(container: av.container.OutputContainer) -> av.VideoStream:
    picture = container.add_stream("mpeg4", rate=2)
    picture.width = picture.height = 64
    picture.pix_fmt = "yuv420p"
    picture.codec_context.thread_count = 1
    picture.codec_context.flags |= 1 << 23
    return picture


def _encode_pictures(container: av.container.OutputContainer, picture: av.VideoStream, count: int) -> None:
    for number in range(count):
        frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 40 + 5 * number % 200, "u1"), format="rgb24")
        frame.pts, frame.time_base = number, Fraction(1, 2)
        container.mux(picture.encode(frame))
    container.mux(picture.encode(None))


def silent_video() -> bytes:
    """An mp4 with a picture and no audio track."""
    stream = io.BytesIO()
    with av.open(stream, "w", format="mp4") as container:
        _encode_pictures(container, _add_picture(container), 4)
    return stream.getvalue()


def number_ogg(data: bytes, serial: int, last: bool = True) -> bytes:
    """The same Ogg stream under the serial number `serial`; without `last`, its last page lacks the end mark."""
    pages, at = [], 0
    while at < len(data):
        count = data[at + 26]
        end = at + 27 + count + sum(data[at + 27 : at + 27 + count])
        page = bytearray(data[at:end])
        page[14:18] = struct.pack("<I", serial)
        page[5] &= 0xFF if last else ~ogg_pages.LAST
        pages.append(with_checksum(page))
        at = end
    return b"".join(pages)


def with_checksum(page: bytearray) -> bytes:
    """The Ogg page with its checksum, bit by bit as RFC 3533 describes it."""
    page[22:26] = bytes(4)
    check = 0
    for byte in page:
        check = ((check << 8) & 0xFFFFFFFF) ^ CRC_TABLE[(check >> 24) ^ byte]
    page[22:26] = struct.pack("<I", check)
    return bytes(page)


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        value = byte << 24
        for _ in range(8):
            value = (value << 1) ^ (0x04C11DB7 if value & 0x80000000 else 0)
        table.append(value & 0xFFFFFFFF)
    return table


CRC_TABLE = _crc_table()


def claim_flac(data: bytes, frames: int) -> bytes:
    """The FLAC with another sample count in its header (36 bits, from bit 4 of byte 21 on)."""
    changed = bytearray(data)
    changed[21] = changed[21] & 0xF0 | frames >> 32
    changed[22:26] = struct.pack(">I", frames & 0xFFFFFFFF)
    return bytes(changed)


# --- the files -------------------------------------------------------------------------------------------------------


def _mp3(rate: int = 16_000, seconds: float = 11.0, **options: str) -> bytes:
    return with_ffmpeg(speech(rate, seconds), rate, "mp3", "libmp3lame", 48_000, **options)


def _ogg(subtype: str, rate: int = 16_000) -> bytes:
    return with_soundfile(speech(rate), rate, "OGG", subtype)


def _start() -> np.ndarray:
    return speech(8000, START)


def _good() -> bytes:
    return make_wav(to_int16(speech()), 8000)


def _noise() -> np.ndarray:
    return np.random.default_rng(7).standard_normal(160_000) * 0.001


FILES: dict[str, Callable[[], bytes]] = {
    "good.wav": _good,
    "start.wav": lambda: make_wav(to_int16(_start()), 8000),
    "gsm.wav": lambda: with_soundfile(speech(), 8000, "WAV", "GSM610"),
    "chained_vorbis.ogg": lambda: number_ogg(_ogg("VORBIS"), 1) + number_ogg(_ogg("VORBIS"), 2),
    "chained_opus.ogg": lambda: number_ogg(_ogg("OPUS"), 1) + number_ogg(_ogg("OPUS"), 2),
    "joined.mp3": lambda: _mp3() + _mp3(),
    "mp3_in.wav": lambda: with_ffmpeg(speech(16_000), 16_000, "wav", "libmp3lame", 48_000),
    "clip.m4a": lambda: with_ffmpeg(speech(16_000), 16_000, "ipod", "aac", 48_000),
    "clip.webm": lambda: with_ffmpeg(speech(48_000), 48_000, "webm", "libopus", 32_000),
    "clip.mp4": lambda: with_ffmpeg(speech(16_000), 16_000, "mp4", "aac", 48_000, video=True),
    "alaw.wav": lambda: with_soundfile(speech(), 8000, "WAV", "ALAW"),
    "adpcm_ima.wav": lambda: with_soundfile(speech(16_000), 16_000, "WAV", "IMA_ADPCM"),
    "float64.wav": lambda: make_wav(_start().astype("<f8").tobytes(), 8000, bits=64, tag=3),
    "pcm24.wav": lambda: make_wav(to_int24(speech()), 8000, bits=24),
    "pcm8.wav": lambda: make_wav(to_uint8(speech(16_000)), 16_000, bits=8),
    "opposite_phase.wav": lambda: make_wav(to_int16(np.stack([_start(), -_start()], 1)), 8000, channels=2),
    "zero_data_size.wav": lambda: make_wav(to_int16(speech()), 8000, claim=0),
    "max_data_size.wav": lambda: make_wav(to_int16(speech()), 8000, claim=0xFFFFFFFF),
    "silence_10s.wav": lambda: make_wav(bytes(2 * 80_000), 8000),
    "low_noise_20s.wav": lambda: with_soundfile(_noise(), 8000, "WAV", "ULAW"),
    "silence_between.wav": lambda: with_soundfile(
        np.concatenate([speech(), np.zeros(160_000), speech()]), 8000, "WAV", "IMA_ADPCM"
    ),
    "short_01s.wav": lambda: make_wav(to_int16(speech()[6400:7200]), 8000),
    "empty.wav": lambda: make_wav(b"", 16_000),
    "empty.bin": lambda: b"",
    "text.wav": lambda: b"Minutes of the meeting. There is no sound in this file, only words.\n" * 20,
    "claims_1gb.wav": lambda: make_wav(to_int16(speech()[8000:8032]), 16_000, claim=1_000_000_000),
    "claims_3gb.wav": lambda: make_wav(to_int16(speech()[8000:8032]), 16_000, claim=3_000_000_000),
    "claims_long.flac": lambda: claim_flac(with_soundfile(_start(), 8000, "FLAC", "PCM_16"), (1 << 36) - 1),
    "rate_1hz.wav": lambda: make_wav(to_int16(speech()[8000:8060]), 1),
    "rate_1hz_long.wav": lambda: make_wav(to_int16(speech()[8000:28_000]), 1),
    "rate_4mhz.wav": lambda: make_wav(to_int16(speech(16_000)[:140_000]), 4_000_000),
    "channels_64.wav": lambda: make_wav(to_uint8(np.repeat(speech(4000)[800:5200], 64)), 4000, bits=8, channels=64),
    "silent_video.mp4": silent_video,
    ODD_NAME: _good,
    DASH_NAME: _good,
    BYTE_NAME: _good,
    "unreadable.wav": _good,
}


@functools.cache
def build(name: str) -> bytes:
    """The bytes of one of FILES."""
    return FILES[name]()


def write(folder: Path, name: str) -> Path:
    """Writes one of FILES into `folder`, and gives its path."""
    path = folder / name
    path.write_bytes(build(name))
    if name == "unreadable.wav":
        path.chmod(0)
    return path


def write_links(folder: Path) -> None:
    """Symbolic links that lead to no file: one to itself, and two that point at each other."""
    for name, target in {"loop.wav": "loop.wav", "loop_a.wav": "loop_b.wav", "loop_b.wav": "loop_a.wav"}.items():
        (folder / name).symlink_to(target)
