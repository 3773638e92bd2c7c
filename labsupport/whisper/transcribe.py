"""Speech to text, the whole way: samples -> log-mel, speech -> encoder -> guarded decoder -> segments with times."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from labsupport.base.errors import WhisperError
from labsupport.results.memory import return_free_memory, take_fresh_blocks
from labsupport.speech.features import WINDOW_FRAMES
from labsupport.speech.recording import FRAME_SECONDS, Recording, analyse
from labsupport.speech.segments import Span
from labsupport.speech.text import Segment, Tokenizer, Transcript
from labsupport.whisper.guards import GuardedDecoder, Guards
from labsupport.whisper.journal import Checkpoint, Journal
from labsupport.whisper.language import VOTES, check_language, check_task, vote_language
from labsupport.whisper.protocol import EncoderOut, WhisperModel
from labsupport.whisper.search import Hypothesis
from labsupport.whisper.token_filters import TokenRules, make_prompt
from labsupport.whisper.windows import SHORT_FRAMES, Cut, count_frames, cut_segments, move_to_pause, place_segments
from labsupport.whisper.word_timestamps import align_window

GUARDS = Guards()
LONG = 600.0  # seconds of a recording from which on less memory is worth up to a tenth more time
FEWER_ROUNDS = 0.9  # texts of the same rounds differ by less: by full stops, or a word


@dataclass(frozen=True)
class Decoded:
    """A window (in frames along the speech) with its text: as a hypothesis, and cut into segments by its timestamps.

    at: where the work goes on after it, if it can.
    """

    window: Span
    encoder_out: EncoderOut  # (1, 1500, d_model), or less of it
    hypothesis: Hypothesis
    cuts: list[Cut]
    at: Checkpoint | None = None


@dataclass
class Transcriber:
    """A model with all that turns sound into text.

    label: the checkpoint's name, as result rows give it.
    alignment_heads: (layer, head) pairs of cross-attention that follow the sound, see `word_timestamps`.
    origin: what tells these weights from others of the same label.
    short_context: encode a window's speech and some silence after it rather than 30 s, at least so many frames, and let
        windows in a batch be shorter, see `stack_mels`: for a model whose encoder takes any length. 0: always 30 s.
    """

    model: WhisperModel
    tokenizer: Tokenizer
    rules: TokenRules
    label: str
    alignment_heads: Sequence[tuple[int, int]] = ()
    origin: str = ""
    short_context: int = 0

    def transcribe(
        self,
        samples: np.ndarray | Iterable[np.ndarray],
        language: str | None = None,
        task: str = "transcribe",
        timestamps: bool = True,
        beams: int = 1,
        batch: int = 1,
        vad: bool = False,
        word_timestamps: bool = False,
        initial_prompt: str | None = None,
        hotwords: str | None = None,
        guards: Guards = GUARDS,
        on_progress: Callable[[float, float], None] = lambda done, total: None,
        journal: Journal | None = None,
    ) -> Transcript:
        """Sound of any length to text.

        From a recording of more than ten minutes on, the process gives freed memory back at once: `take_fresh_blocks`.

        Args:
            samples: (n,) float32, mono, 16 kHz, or blocks of them in order, such as `audio.read_blocks` gives: then
                the samples are never all in memory.
            language: a code such as "en"; None lets a multilingual model detect it.
            task: "transcribe", or "translate" into English (multilingual models).
            timestamps: let the model write times. Without them every window of 30 s is one segment; only one that
                says the same more than once may get times all the same, see `check_rounds`.
            beams: 1 is greedy.
            batch: 1 goes from window to window along the model's own timestamps. More decodes that many windows (of
                30 s; with a short context, of 15 s) at once, and without timestamps: asked for them, the model leaves
                a window's unfinished last sentence out, and no later window would repeat it.
            vad: decode only what a voice detector takes for speech, see `speech.segments`.
            word_timestamps: give every segment the times of its words, see `word_timestamps`.
            initial_prompt: what might have been said before the first window, for names and style.
            hotwords: names and terms to expect, which every window is given.
            guards: what a window's text must be, see `Guards`.
            on_progress: called with the seconds that are done, and those of the recording.
            journal: what is done already, for the same sound and options; every window is added to it.

        Raises:
            WhisperError: the model does not know the language or the task, or the hotwords are too many.
        """
        check_task(self.model, task)
        check_language(self.model, self.tokenizer, language)
        hotword_tokens = self.encode_hotwords(hotwords)
        recording = self.analyse(samples, vad)
        if recording.seconds > LONG:
            take_fresh_blocks()
        encode = functools.lru_cache(maxsize=VOTES)(lambda span: self.model.encode(recording.window(span)[None]))
        language, probability = self.choose_language(language, recording, encode)
        decoder = GuardedDecoder(
            self.model, self.tokenizer, self.rules, beams=beams, guards=guards,
            prompt=make_prompt(self.tokenizer, language, task), hotwords=hotword_tokens,
        )  # fmt: skip
        previous = self.tokenizer.encode(f" {initial_prompt.strip()}") if initial_prompt else []
        journal = journal or Journal()
        at = journal.at or Checkpoint(0, previous)
        if timestamps and batch == 1:
            part = Span(at.seek, recording.frames)
            windows = decode_sequentially(decoder, recording, part, encode, at.previous, short=self.short_context)
        else:
            windows = decode_in_batches(decoder, recording, batch, encode, at.previous, at.seek, self.short_context)
        spoken = journal.spoken
        for decoded in windows:
            segments: list[Segment] = []
            if not guards.is_silence(decoded.hypothesis):
                after = spoken[-1].end if spoken else 0.0
                segments = self.place(decoded, recording, decoder.prompt, after, word_timestamps)
            journal.add(segments, decoded.at)
            on_progress(recording.seconds * decoded.window.end / recording.frames, recording.seconds)
            return_free_memory()  # else free blocks between used ones add up over the windows
        text = "".join(segment.text for segment in spoken).strip()
        segments = [restored for segment in spoken for restored in recording.restore(segment)]
        segments = [finish(segment, word_timestamps) for segment in segments]
        return Transcript(text, segments, language or "en", probability, recording.seconds)

    def analyse(self, samples: np.ndarray | Iterable[np.ndarray], vad: bool = False) -> Recording:
        """The log-mel that the model reads, and where somebody speaks."""
        return analyse(samples, self.model.config.mels, vad)

    def choose_language(
        self, language: str | None, recording: Recording, encode: Callable[[Span], EncoderOut]
    ) -> tuple[str | None, float | None]:
        """The language for the prompt, None for an English-only model; and its probability, where it was detected."""
        if not self.model.config.multilingual:
            return None, None
        windows = [] if language else recording.loud_windows(VOTES)
        if not windows:
            return language or "en", None  # nobody speaks, and nothing will be decoded
        return vote_language(self.model, self.tokenizer, windows, encode)

    def encode_hotwords(self, hotwords: str | None) -> list[int]:
        """Tokens; WhisperError where they would leave no room for the text before a window."""
        tokens = self.tokenizer.encode(f" {hotwords.strip()}") if hotwords else []
        if len(tokens) > (room := self.model.config.text_positions // 4):
            hint = "Give the rarest ones: those that the model would not guess."
            raise WhisperError(f"The hotwords are {len(tokens)} tokens, and {room} have room.", hint=hint)
        return tokens

    def place(
        self, decoded: Decoded, recording: Recording, prompt: list[int], after: float, word_timestamps: bool
    ) -> list[Segment]:
        """The window's segments along the speech, the first no earlier than `after` seconds.

        With the times of their words where they are asked for, or needed to divide a segment that silence interrupts.
        """
        window, cuts, quality = decoded.window, decoded.cuts, decoded.hypothesis
        placed = place_segments(cuts, window, after, quality, self.tokenizer, self.rules)
        if not word_timestamps and not any(recording.crosses_joint(s.start, s.end) for s in placed):
            return placed
        timings = align_window(
            self.model, self.tokenizer, decoded.encoder_out, cuts, prompt, self.alignment_heads, window.start,
            window.end - window.start, after,
        )  # fmt: skip
        return place_segments(cuts, window, after, quality, self.tokenizer, self.rules, timings)


def finish(segment: Segment, word_timestamps: bool) -> Segment:
    """The segment as it is given: without space around its text, and with its words' times only where asked for."""
    timings = segment.word_timings if word_timestamps else ()
    return replace(segment, text=segment.text.strip(), word_timings=timings)


def decode_sequentially(
    decoder: GuardedDecoder,
    recording: Recording,
    part: Span,
    encode: Callable[[Span], EncoderOut],
    previous: list[int],
    pauses: Sequence[int] = (),
    short: int = 0,
) -> Iterator[Decoded]:
    """Window by window: each begins where the last complete segment of the one before ended.

    Args:
        part: what to decode, in frames along the speech.
        encode: window -> (1, 1500, d_model).
        previous: tokens that the first window is given as the text before it.
        pauses: frames at which a window begins rather than near them.
        short: encode what is said alone, see `stack_mels`.
    """
    seek = part.start
    while seek < part.end:
        window = Span(seek, min(seek + WINDOW_FRAMES, part.end))
        if recording.is_blank(window):
            seek = window.end
            continue
        encoder_out, hypothesis = decode_windows(decoder, recording, [window], encode, previous, short)[0]
        cuts, ahead = cut_segments(hypothesis.tokens, decoder.rules, window.end - window.start)
        previous = decoder.next_context(previous, hypothesis, cuts)
        over = decoder.guards.is_silence(hypothesis) or ahead == 0
        seek = window.end if over else move_to_pause(seek + ahead, pauses, after=seek)
        yield Decoded(window, encoder_out, hypothesis, cuts, Checkpoint(seek, previous))


def decode_in_batches(
    decoder: GuardedDecoder,
    recording: Recording,
    batch: int,
    encode: Callable[[Span], EncoderOut],
    previous: list[int],
    seek: int = 0,
    short: int = 0,
) -> Iterator[Decoded]:
    """Windows of at most 30 s side by side, `batch` at a time, without timestamps; each of them is given `previous`.

    Args:
        seek: batches up to this frame are left out: they are done.
        short: windows of at most 15 s, of which what is said alone is encoded, see `stack_mels`; 0: whole ones.
    """
    untimed = decoder.without_timestamps()
    windows = batch_windows(recording, short)
    for first in range(0, len(windows), batch):
        group = windows[first : first + batch]
        if group[-1].end <= seek:
            continue
        found = decode_windows(untimed, recording, group, encode, previous, short)
        for window, (encoder_out, hypothesis) in zip(group, found, strict=True):
            cuts, _ = cut_segments(hypothesis.tokens, untimed.rules, window.end - window.start)
            decoded = Decoded(window, encoder_out, hypothesis, cuts)
            *earlier, last = check_rounds(decoded, decoder, recording, encode, previous)
            yield from (replace(each, at=None) for each in earlier)
            yield replace(last, at=Checkpoint(window.end, previous) if window is group[-1] else None)


def batch_windows(recording: Recording, short: int) -> list[Span]:
    """What batches decode, none of it blank: windows of at most 30 s; `short`: 15 s.

    Twice as many rows at once take half as many steps, and a step costs little more for them: a half of the encoder's
    output belongs to each.
    """
    windows = recording.windows(SHORT_FRAMES, at_silence=True) if short else recording.windows()
    return [window for window in windows if not recording.is_blank(window)]


def stack_mels(windows: Sequence[tuple[Recording, Span]], short: int) -> np.ndarray:
    """(windows, mels, 3000) float32

    short: only the frames that the longest of them has, and `SILENCE` after it; so many at least. 0: all.
    """
    longest = max(window.end - window.start for _, window in windows)
    frames = max(short, count_frames(longest * FRAME_SECONDS)) if short else WINDOW_FRAMES
    return np.stack([recording.window(window)[:, :frames] for recording, window in windows])


def decode_windows(
    decoder: GuardedDecoder,
    recording: Recording,
    group: Sequence[Span],
    encode: Callable[[Span], EncoderOut],
    previous: list[int],
    short: int,
) -> list[tuple[EncoderOut, Hypothesis]]:
    """Each window's encoder output (1, frames, d_model) and its text.

    short: encode what is said alone, see `stack_mels`. Whisper was trained on whole windows; so one whose text fails
        the guards then is encoded whole, before it is decoded at any higher temperature.
    """
    mels = stack_mels([(recording, window) for window in group], short)  # (windows, mels, frames)
    whole = mels.shape[2] == WINDOW_FRAMES
    encoder_out = encode(group[0]) if whole and len(group) == 1 else decoder.model.encode(mels)
    if whole:
        return [(encoder_out[i : i + 1], each) for i, each in enumerate(decoder.decode(encoder_out, previous))]
    found = []
    for i, hypothesis in enumerate(decoder.decode_once(encoder_out, previous)):
        if decoder.guards.is_bad(hypothesis):
            again = encode(group[i])
            found.append((again, decoder.decode(again, previous)[0]))
        else:
            found.append((encoder_out[i : i + 1], hypothesis))
    return found


def check_rounds(
    untimed: Decoded,
    decoder: GuardedDecoder,
    recording: Recording,
    encode: Callable[[Span], EncoderOut],
    previous: list[int],
) -> list[Decoded]:
    """A window that was decoded without timestamps; or decoded with them, where that gives fewer rounds of its text.

    Rounds are what one says again and again. Without timestamps nothing counts them: one more costs next to no
    probability, so it makes the text's mean log-probability higher, by which beam search chooses. With timestamps each
    round needs its own time in the window.
    """
    if not decoder.guards.has_rounds(untimed.hypothesis):
        return [untimed]
    # the rest after the last segment may be short: of a word's end alone, Whisper would make a word
    timed = list(decode_sequentially(decoder, recording, untimed.window, encode, previous, recording.pauses))
    if any(decoder.guards.is_bad(each.hypothesis) for each in timed):
        return [untimed]
    length = sum(decoder.count_text(each.hypothesis) for each in timed)
    return timed if length < FEWER_ROUNDS * decoder.count_text(untimed.hypothesis) else [untimed]
