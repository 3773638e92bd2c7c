"""Whether an entrant has done the work: its text against what is said, and against the others'.

Normalised as in Whisper's paper, see `speech.text.normalise`: case, punctuation, numbers and contractions do not count.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from labsupport.engine.race.sounds import Sound
from labsupport.speech import text

WORSE = 0.05  # by so much a word error rate may be higher than the bar's
FEWER = 0.04  # by such a part the count of words may differ from what is said, or from the bar's
IN_A_ROW = 3  # so many more words one after the other may be left out than the bar leaves out


@dataclass(frozen=True)
class Score:
    """Of one entrant's text of one sound.

    wer: word error rate, 0 is perfect.
    word_count: how many it has; said: how many were said.
    lost: the most words one after the other that were said and are not there.
    """

    wer: float
    word_count: int
    said: int
    lost: int


def score(sound: Sound, texts: Sequence[str]) -> Score:
    """Of an answer's texts, one for each clip."""
    import jiwer

    pairs = [(text.normalise(said), text.normalise(found)) for said, found in zip(sound.texts, texts, strict=True)]
    aligned = [jiwer.process_words(said, found) for said, found in pairs]
    chunks = [chunk for each in aligned for chunk in each.alignments[0] if chunk.type == "delete"]
    errors = sum(each.substitutions + each.deletions + each.insertions for each in aligned)
    said = sum(len(each.references[0]) for each in aligned)
    return Score(
        errors / said, sum(len(found.split()) for _, found in pairs), said,
        max((chunk.ref_end_idx - chunk.ref_start_idx for chunk in chunks), default=0),
    )  # fmt: skip


def set_bar(reference: Score, scores: Sequence[Score]) -> Score:
    """What every text is held against: the reference entrant's, or that of the middle of all where it is much better.

    So a reference that goes wrong, as over long pauses, lets nobody through, and a skipper sets no bar.
    """
    middle = statistics.median_low(each.wer for each in scores)
    if reference.wer <= middle + WORSE:
        return reference
    return min((each for each in scores if each.wer == middle), key=lambda each: each.lost)


def find_fault(found: Score, bar: Score) -> str | None:
    """Why this text is no result of the same work, or None."""
    if found.wer > bar.wer + WORSE:
        return f"its word error rate is {found.wer:.1%}, where {bar.wer:.1%} is usual"
    if min(abs(found.word_count - count) for count in (found.said, bar.word_count)) > max(FEWER * found.said, IN_A_ROW):
        return f"it has {found.word_count} words, and {found.said} were said"
    if found.lost > bar.lost + IN_A_ROW:
        return f"it leaves out {found.lost} words in a row"
    return None


def find_impossible(seconds: float, least: float) -> str | None:
    """Why a time cannot be true, or None. least: seconds that this machine needs for the arithmetic alone."""
    if seconds < least:
        return f"it took {seconds:.3g} s, and the encoder's arithmetic alone takes {least:.3g} s on this machine"
    return None
