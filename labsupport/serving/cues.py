"""Segments of the length of subtitles, cut out of longer ones by the times of their words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from labsupport.speech.text import Segment, Word

LONGEST_SECONDS = 7.0  # that a subtitle stands, and the letters that two lines hold: Netflix's timed text guide
LONGEST_TEXT = 84
SHORTEST_SECONDS = 1.0
SENTENCE_ENDS = (".", "!", "?", "…", "。", "！", "？", "؟", "।")
CLAUSE_ENDS = (",", ";", ":", "，", "、", "；")
EARLIEST = 3  # a long cue is not cut in the first third of its letters
CLOSING = "\"'”’»)]」』"  # may follow a sentence's end


def cut_into_cues(segment: Segment) -> list[Segment]:
    """The segment in parts that end with a sentence, or before a word that would make them too long.

    segment: with the times of its words; without them it stays whole. The parts' texts make up its text.
    """
    groups = list(group_by_cue(segment.word_timings))
    if len(groups) < 2:
        return [segment]
    texts = ["".join(word.text for word in group) for group in groups]
    return [
        replace(segment, start=group[0].start, end=group[-1].end, text=text, word_timings=tuple(group))
        for group, text in zip(groups, texts, strict=True)
    ]


def group_by_cue(timings: Sequence[Word]) -> Iterator[list[Word]]:
    group: list[Word] = []
    for word in timings:
        while group and is_too_long([*group, word]):
            end = find_break(group, word)
            yield group[:end]
            group = group[end:]
        group.append(word)
        if ends_sentence(word) and group[-1].end - group[0].start >= SHORTEST_SECONDS:
            yield group
            group = []
    if group:
        yield group


def find_break(group: Sequence[Word], following: Word) -> int:
    """After how many words to end a cue: after a comma, else before the longest pause, else as late as can be."""
    starts = [*(word.start for word in group[1:]), following.start]
    letters, whole = 0, sum(len(word.text) for word in group)
    found = []
    for number, (word, start) in enumerate(zip(group, starts, strict=True), 1):
        letters += len(word.text)
        if letters * EARLIEST >= whole:
            found.append((word.text.rstrip(CLOSING).endswith(CLAUSE_ENDS), round(start - word.end, 1), number))
    return max(found)[-1]


def is_too_long(group: Sequence[Word]) -> bool:
    letters = sum(len(word.text) for word in group)
    return group[-1].end - group[0].start > LONGEST_SECONDS or letters > LONGEST_TEXT


def ends_sentence(word: Word) -> bool:
    return word.text.strip().rstrip(CLOSING).endswith(SENTENCE_ENDS)
