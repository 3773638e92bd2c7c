"""Decodes the parts of audio files: libsndfile where it reads the format well, FFmpeg through PyAV for all others."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING, cast

import numpy as np

from labsupport.base.errors import AudioError, NoAudio, printable
from labsupport.speech import containers
from labsupport.speech.clock import EXACT, MATROSKA, MP4, Clock
from labsupport.speech.parts import Part, Readable, Source, is_unknown
from labsupport.speech.progress import DURATION_TOLERANCE, Mp3Progress, Progress

if TYPE_CHECKING:
    import av

BLOCK_SECONDS = 30
BLOCK_VALUES = 1 << 20  # of all channels: 4 MB in float32
FORMATS = (  # FFmpeg's demuxers for what users have; others divide by zero on damage, read other files or the network
    "aac,ac3,ac4,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dsf,dss,dts,dtshd,eac3,flac,flv,loas,matroska,mlp,mov,mp3,"
    "mpc,mpc8,mpeg,mpegts,mxf,ogg,oma,qcp,rm,tak,truehd,tta,voc,w64,wav,wtv,wv"
)
PROBE = {"analyzeduration": "43200000000", "probesize": "50000000"}  # µs, bytes: a video's sound may begin late
WITH_CHECKSUMS = ("tta", "flac", "ac3", "eac3")  # FFmpeg's decoders that look at them only when told
STATED_DURATION = (  # of FFmpeg's names, those whose duration is no guess from the bit rate
    *(MP4, MATROSKA),
    *["asf", "ape", "wv", "tta", "tak", "mpc", "mpc8", "caf", "flac", "flv"],
)


def open_parts(file: Readable, source: Source) -> Generator[Decoder, None, None]:
    """A decoder for each recording that a seekable file holds, in order; each is closed when the next is asked for.

    AudioError if it is no audio, encrypted, of an unknown codec, without the track that is wanted, or damaged and what
    is left is not wanted; OSError if it cannot be read.
    """
    for part in containers.find_parts(file, source):
        decoder = _open_part(part, source)
        try:
            yield decoder
        finally:
            decoder.close()


def _open_part(part: Part, source: Source) -> Decoder:
    for library in part.libraries:
        part.seek(0)
        try:
            return DECODERS[library](part, source)
        except UnknownFormat:
            continue
    if part.fault:
        raise part.fault
    if containers.starts_like_media(part.file):
        raise source.damage_error("its header breaks off or is damaged")
    hint = "Takes what FFmpeg and libsndfile can decode, such as wav, flac, mp3, m4a, ogg, webm, wma, mp4."
    raise NoAudio("This is no audio that can be decoded.", where=source.where, hint=hint)


class UnknownFormat(Exception):
    """A library does not know this kind of file, or not this variant of it: another one may."""


class Decoder:
    """Decodes a part with one library; UnknownFormat from the start if that does not know its format.

    `seconds` is how long it lasts by the header or a guess, `stated` by the header alone; None if that does not say.
    """

    rate: int
    channels: int
    seconds: float | None
    stated: float | None

    def __init__(self, part: Part, source: Source):
        self.part, self.source = part, source

    def close(self) -> None:
        raise NotImplementedError

    def blocks(self) -> Iterator[tuple[np.ndarray, int]]:
        """float32 samples (frames, channels) and their rate in Hz, block by block; AudioError where the end is lost."""
        try:
            yield from self._decode_blocks()
        except AudioError:
            if self.part.fault:  # what seemed to be the end
                raise self.part.fault from None
            raise

    def _decode_blocks(self) -> Iterator[tuple[np.ndarray, int]]:
        raise NotImplementedError


class SoundfileDecoder(Decoder):
    """libsndfile's; its headers state how long they last."""

    def __init__(self, part: Part, source: Source):
        import soundfile

        super().__init__(part, source)
        if _is_mp3(part):  # libmpg123 inside libsndfile writes to stderr
            raise UnknownFormat
        try:
            self.sound = soundfile.SoundFile(part)
        except soundfile.LibsndfileError as error:
            raise UnknownFormat from error
        self.rate, self.channels = self.sound.samplerate, self.sound.channels
        self.seconds = self.stated = self.sound.frames / self.rate
        if missing := _count_missing_bytes(self.sound.extra_info):
            source.report_missing(missing)
        if not self.sound.seekable():  # soundfile reads such a file only as a whole
            raise UnknownFormat
        source.check_track(1)

    def close(self) -> None:
        self.sound.close()

    def _decode_blocks(self) -> Iterator[tuple[np.ndarray, int]]:
        import soundfile

        size, decoded = block_frames(self.rate, self.channels), 0
        try:
            while len(block := self.sound.read(size, dtype="float32", always_2d=True)):
                decoded += len(block)
                yield block, self.rate
        except soundfile.LibsndfileError as error:
            if decoded < self.sound.frames:  # otherwise it is a tag after the sound that stops it
                last = min(decoded + size, self.sound.frames) / self.rate
                self.source.report_damage(f"decoding breaks off before {self.source.offset + last:.2f} s", error)
                return
        if decoded < self.sound.frames:
            found = decoded / self.rate
            self.source.report_damage(f"it should hold {self.seconds:.2f} s and holds {found:.2f} s")


def _is_mp3(part: Part) -> bool:
    head = part.read(3)
    part.seek(0)
    return head == b"ID3" or (head[:1] == b"\xff" and head[1:2] >= b"\xe0")


def block_frames(rate: int, channels: int) -> int:
    """How many frames are decoded at once: half a minute, or less where there are many channels."""
    return max(1, min(BLOCK_SECONDS * rate, BLOCK_VALUES // channels))


def _count_missing_bytes(log: str) -> int:
    """From libsndfile's log of an aiff, au or w64: the stated size, and in brackets the size that is there."""
    found = re.search(r"^ *(?:data|SSND|BODY|riff|Data Size) *: (\d+) \(should be (\d+)\)", log, re.MULTILINE)
    stated, present = (int(found[1]), int(found[2])) if found else (0, 0)
    return max(0, stated - present) if not is_unknown(stated) else 0


class AvDecoder(Decoder):
    """FFmpeg's, of the best audio track."""

    def __init__(self, part: Part, source: Source):
        import av

        super().__init__(part, source)
        try:
            self.container = av.open(
                part,
                "r",
                metadata_errors="replace",
                container_options={"format_whitelist": FORMATS, "protocol_whitelist": ""} | PROBE,
            )
        except av.FFmpegError as error:
            raise UnknownFormat from error
        self.stream = self._choose_stream()
        self.rate, self.channels = self.stream.codec_context.sample_rate, self.stream.codec_context.layout.nb_channels
        ticks, time_base = self.stream.duration, self.stream.time_base
        whole = self.container.duration
        self.seconds = float(ticks * time_base) if ticks and time_base else whole / av.time_base if whole else None
        alone = len(self.container.streams) == 1
        name = self.container.format.name
        own = alone or (ticks and name != "asf")  # else it is the picture's, too
        self.stated = self.seconds if name in STATED_DURATION and own else None

    def close(self) -> None:
        self.container.close()

    def _choose_stream(self) -> av.AudioStream:
        from av.stream import Discard

        tracks, track = self.container.streams.audio, self.source.track
        if not tracks:
            hint = "Name a file that has an audio track."
            raise NoAudio("The file holds no sound, only pictures or text.", where=self.source.where, hint=hint)
        self.source.check_track(len(tracks))
        known = [each for each in tracks if each.codec_context is not None and each.codec_context.sample_rate]
        best = cast("av.AudioStream | None", self.container.streams.best("audio"))
        stream = tracks[track - 1] if track else best if best in known else next(iter(known), tracks[0])
        if stream not in known:
            raise self._unsupported_error()
        for other in self.container.streams:
            if other is not stream:
                other.discard = Discard.all
        stream.codec_context.thread_count = 1  # audio decoders gain nothing from more
        if stream.codec_context.name in WITH_CHECKSUMS:
            stream.codec_context.options = {"err_detect": "crccheck+explode"}
        if len(tracks) > 1 and not track:
            self._warn_of_tracks(tracks, stream)
        return stream

    def _warn_of_tracks(self, tracks: Sequence[av.AudioStream], chosen: av.AudioStream) -> None:
        names = [
            f"{number} ({describe_track(track)}{', used' * (track is chosen)})"
            for number, track in enumerate(tracks, 1)
        ]
        self.source.warn(f"{len(tracks)} audio tracks: {', '.join(names)}. `--track` chooses another.")

    def _unsupported_error(self) -> AudioError:
        others = self._name_others()
        name = "something unknown" if others else containers.name_codec(self.part)
        hint = others or "Convert it where it plays, to wav, flac, mp3 or m4a."
        what = f"The sound is coded as {name}, for which there is no decoder here."
        return NoAudio(what, where=self.source.where, hint=hint)

    def _name_others(self) -> str:
        """What to do where one of several tracks is of no use; nothing where there is one."""
        count = len(self.container.streams.audio)
        return f"It has {count} audio tracks; choose another: `--track`." if count > 1 else ""

    def _decode_blocks(self) -> Iterator[tuple[np.ndarray, int]]:
        pieces: list[np.ndarray] = []
        count, now = 0, (self.rate, self.channels)
        for piece, rate in self._pieces():
            if pieces and (count >= block_frames(*now) or (rate, piece.shape[1]) != now):
                yield np.concatenate(pieces), now[0]
                pieces, count = [], 0
            now = (rate, piece.shape[1])
            count += len(piece)
            pieces.append(piece)
        if pieces:
            yield np.concatenate(pieces), now[0]

    def _pieces(self) -> Iterator[tuple[np.ndarray, int]]:
        """What each packet holds, float32 (frames, channels), and its rate; silence where the clock leaves a gap."""

        progress, clock = self._start_progress(), Clock(self.container)
        for silence, frame in clock.place(self._frames(progress)):
            samples = to_float(frame)
            for count in block_sizes(silence, frame.sample_rate, samples.shape[1]):
                yield np.zeros((count, samples.shape[1]), np.float32), frame.sample_rate
            yield samples, frame.sample_rate
        if clock.gaps and self.container.format.name == "flac":  # where no pause is left out
            self.source.report_damage(f"sound is missing at {self.source.offset + clock.gaps[0][0]:.2f} s")
        for warning in [*progress.warnings(), *clock.warnings(self.source.offset)]:
            self.source.warn(warning)

    def _frames(self, progress: Progress) -> Iterator[av.AudioFrame]:
        import av

        try:
            for packet in self.container.demux(self.stream):
                yield from self._decode(packet, progress)
        except (av.FFmpegError, IndexError) as error:  # PyAV knows no track that begins further on
            self.source.report_break(progress.position, error)
        if not progress.decoded and (others := self._name_others()):
            raise AudioError("This audio track holds no sound.", where=self.source.where, hint=others)
        if missing := progress.find_missing():
            self.source.report_damage(missing)

    def _decode(self, packet: av.Packet, progress: Progress) -> list[av.AudioFrame]:
        """The packet's frames; none of a damaged one, if what is left is wanted."""
        import av

        try:
            return progress.decode(packet)
        except (av.error.DecoderNotFoundError, av.error.PatchWelcomeError) as error:
            if not progress.decoded:
                raise self._unsupported_error() from error
            self.source.report_break(progress.position, error)
        except av.FFmpegError as error:
            self.source.report_break(progress.position, error)
        return []

    def _start_progress(self) -> Progress:
        name = self.container.format.name
        if name == "mp3":
            return Mp3Progress(self.stream, self.part)
        tolerance = EXACT if name == "flac" else DURATION_TOLERANCE
        return Progress(self.stream, self.stated, from_zero=name != MP4, tolerance=tolerance)


def describe_track(track: av.AudioStream) -> str:
    """Its title or language as far as it has one, its codec and channels."""
    named = [track.metadata.get("title"), track.metadata.get("language")]
    coder = track.codec_context
    codec = [coder.codec.canonical_name, coder.layout.name] if coder is not None else ["of an unknown codec"]
    return ", ".join(printable(each) for each in [*named, *codec] if each and each != "und")


def block_sizes(seconds: float, rate: int, channels: int) -> Iterator[int]:
    """How many frames each block of a silence of so many seconds has."""
    left, most = round(seconds * rate), block_frames(rate, channels)
    while left > 0:
        yield min(left, most)
        left -= most


def to_float(frame: av.AudioFrame) -> np.ndarray:
    """The samples of a frame of any format as float32 (frames, channels), full scale ±1."""
    samples = frame.to_ndarray()
    samples = samples.T if frame.format.is_planar else samples.reshape(-1, frame.layout.nb_channels)
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128) / 128
    scale = 1 if samples.dtype.kind == "f" else 1 << 8 * samples.dtype.itemsize - 1
    with np.errstate(over="ignore"):  # becomes infinite, which is reported
        return (samples / scale).astype(np.float32)


DECODERS: dict[str, type[Decoder]] = {"soundfile": SoundfileDecoder, "ffmpeg": AvDecoder}
