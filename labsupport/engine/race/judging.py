"""Whether an entrant has done the work: its text against what is said, and against the reference entrant's.

Normalised as in Whisper's paper, see `speech.text.normalise`: case, punctuation, numbers and contractions do not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from labsupport.engine.race.sounds import Sound
from labsupport.speech import text

WORSE = 0.05  # by so much a word error rate may be higher than the reference entrant's
FEWER = 0.04  # by such a part the count of words may differ from the reference entrant's
IN_A_ROW = 3  # so many more words one after the other may be left out, or added, than by the reference entrant


@dataclass(frozen=True)
class Score:
    """Of one entrant's text of one sound.

    wer: word error rate, 0 is perfect.
    words: how many it has.
    lost, added: the most words one after the other that were said and are not there; that are there and were not said.
    """

    wer: float
    words: int
    lost: int
    added: int


def score(sound: Sound, texts: Sequence[str]) -> Score:
    """Of an answer's texts, one for each clip."""
    import jiwer

    pairs = [(text.normalise(said), text.normalise(found)) for said, found in zip(sound.texts, texts, strict=True)]
    aligned = [jiwer.process_words(said, found) for said, found in pairs]
    runs = {
        kind: max((longest_run(chunk, kind) for each in aligned for chunk in each.alignments[0]), default=0)
        for kind in ("delete", "insert")
    }
    count = sum(len(found.split()) for _, found in pairs)
    errors = sum(each.substitutions + each.deletions + each.insertions for each in aligned)
    said = sum(len(each.references[0]) for each in aligned)
    return Score(errors / said, count, runs["delete"], runs["insert"])


def longest_run(chunk, kind: str) -> int:
    """How many words a piece of the alignment leaves out or adds; 0 where it is of another kind."""
    if chunk.type != kind:
        return 0
    return max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)


def find_fault(found: Score, reference: Score) -> str | None:
    """Why this text is no result of the same work, or None."""
    if found.wer > reference.wer + WORSE:
        return f"its word error rate is {found.wer:.1%}, the reference entrant's {reference.wer:.1%}"
    if abs(found.words - reference.words) > max(FEWER * reference.words, IN_A_ROW):
        return f"it has {found.words} words, the reference entrant {reference.words}"
    if found.lost > reference.lost + IN_A_ROW:
        return f"it leaves out {found.lost} words in a row"
    if found.added > reference.added + IN_A_ROW:
        return f"it adds {found.added} words in a row that nobody said"
    return None


def find_impossible(seconds: float, least: float) -> str | None:
    """Why a time cannot be true, or None. least: seconds that this machine needs for the arithmetic alone."""
    if seconds < least:
        return f"it took {seconds:.3g} s, and the encoder's arithmetic alone takes {least:.3g} s on this machine"
    return None
