"""Solutions of 10_long_audio. They spoil the fun: try first."""

from __future__ import annotations

import itertools
import re

import numpy as np

from labsupport.course.exercises import Exercise, Mistake, Wrong

# --- 10.1 -------------------------------------------------------------------------------------------------------------


def cut(samples, size, overlap):
    return [(start, min(start + size, samples)) for start in range(0, max(samples - overlap, 1), size - overlap)]


def cut_by_counting(samples, size, overlap):
    step = size - overlap
    count = max(1, -(-(samples - overlap) // step))
    return [(i * step, min(i * step + size, samples)) for i in range(count)]


def cut_until_the_end(samples, size, overlap):
    windows = [(0, min(size, samples))]
    while windows[-1][1] < samples:
        start = windows[-1][1] - overlap
        windows.append((start, min(start + size, samples)))
    return windows


def cut_with_numpy(samples, size, overlap):
    starts = np.arange(0, samples, size - overlap)
    ends = np.minimum(starts + size, samples)
    last = int(np.argmax(ends == samples))  # the first window that reaches the end
    return list(zip(starts[: last + 1].tolist(), ends[: last + 1].tolist(), strict=True))


def draw_cut(rng):
    size = int(rng.integers(2, 50))
    return int(rng.integers(1, 400)), size, int(rng.integers(0, size))


def whole_windows_alone(samples, size, overlap):
    return [window for window in cut(samples, size, overlap) if window[1] - window[0] == size]


def run_cut(answer):
    """tiny.en transcribes the clip in the answer's windows; without overlap every word must be said once."""
    from labsupport.course import trials
    from labsupport.speech import audio, text

    samples = audio.read(audio.clip(trials.CLIP).path)
    middle = 4 * audio.SAMPLE_RATE  # the clip's second half is said in a window of its own
    windows = [tuple(map(int, window)) for window in answer(len(samples), len(samples) - middle, 0)]
    said = " ".join(trials.load_plain().transcribe(samples[start:end]).text for start, end in windows)
    error = text.wer(audio.clip(trials.CLIP).text, said)
    if error > 0.3:
        raise Wrong(f"tiny.en writes {said!r} for your windows {windows}.")
    return f"tiny.en writes the clip's text from your {len(windows)} windows, with {100 * error:.0f} % of errors."


# --- 10.2 -------------------------------------------------------------------------------------------------------------


def join(left, right):
    longest = min(len(left), len(right))
    shared = next((n for n in range(longest, 0, -1) if left[-n:] == right[:n]), 0)
    return left + right[shared:]


def join_by_trying_all(left, right):
    best = 0
    for n in range(1, min(len(left), len(right)) + 1):
        if left[len(left) - n :] == right[:n]:
            best = n
    return [*left, *right[best:]]


def join_by_place(left, right):
    for start in range(max(0, len(left) - len(right)), len(left)):
        if left[start:] == right[: len(left) - start]:
            return left[:start] + right
    return left + right


def join_word_by_word(left, right):
    lengths = [n for n in range(min(len(left), len(right)) + 1) if all(map(str.__eq__, left[len(left) - n :], right))]
    return left + right[max(lengths) :]


def draw_texts(rng):
    def draw(most):
        return rng.choice(["a", "b"], rng.integers(0, most)).tolist()

    return draw(8), draw(8)


def drop_shared(left, right):
    return [*left, *(word for word in right if word not in left)]


def shortest(left, right):
    n = next((n for n in range(1, min(len(left), len(right)) + 1) if left[-n:] == right[:n]), 0)
    return left + right[n:]


# --- 10.3 -------------------------------------------------------------------------------------------------------------


def spell(word):
    return re.sub(r"[^\w']", "", word).casefold()


def count_agreed(before, now):
    def spell(word):
        return re.sub(r"[^\w']", "", word).casefold()

    count = 0
    for a, b in zip(before, now, strict=False):
        if spell(a) != spell(b):
            break
        count += 1
    return count


def count_agreed_by_iterators(before, now):
    pairs = zip(before, now, strict=False)
    return len(list(itertools.takewhile(lambda pair: spell(pair[0]) == spell(pair[1]), pairs)))


def count_agreed_by_length(before, now):
    a, b = [spell(word) for word in before], [spell(word) for word in now]
    return max(n for n in range(min(len(a), len(b)) + 1) if a[:n] == b[:n])


def count_agreed_with_numpy(before, now):
    same = [spell(a) == spell(b) for a, b in zip(before, now, strict=False)]
    return int(np.cumprod([*same, False]).sum())


FORMS = ["ask", "Ask", "ask,", "not", "Not.", "what", "WHAT"]


def draw_hypotheses(rng):
    now = rng.choice(FORMS, rng.integers(0, 7)).tolist()
    before = [word.swapcase() if rng.random() < 0.5 else word for word in now[: rng.integers(0, len(now) + 1)]]
    if before and rng.random() < 0.5:
        before[rng.integers(len(before))] = str(rng.choice(FORMS))
    return before, now


def run_count_agreed(answer):
    """tiny.en transcribes the clip live; the answer says what is stable."""
    from labsupport.course import trials
    from labsupport.speech import audio
    from labsupport.whisper import live

    class LearnersAgreement(live.Agreement):
        def update(self, hypothesis):
            new = self.drop_repeated([word for word in hypothesis if word.start > self.end - live.CLOSE])
            return self.accept(new, int(answer([word.text for word in self.pending], [word.text for word in new])))

    samples = audio.read(audio.clip(trials.CLIP).path)
    pieces = np.split(samples, [seconds * audio.SAMPLE_RATE for seconds in (4, 7, 9)])
    texts = []
    for agreement in (live.Agreement(), LearnersAgreement()):
        transcriber = live.LiveTranscriber(trials.load_plain(), agreement=agreement)
        updates = list(live.transcribe_live(transcriber, pieces))
        texts.append([live.join([shown.word for shown in update.stable]) for update in updates])
    if texts[0] != texts[1]:
        raise Wrong(f"live, your stable text comes as {texts[1]}; it is {texts[0]}.")
    return f"live, tiny.en's text became stable in {sum(map(bool, texts[0]))} steps, as without your part."


EXERCISES = [
    Exercise(
        id="10.1",
        title="Windows that lose nothing, in the model",
        hints=(
            "How far do the beginnings of two neighbours lie apart? When is no other window needed?",
            "The step is size - overlap. A window that reaches the end is the last one, however short.",
            "The starts are range(0, max(samples - overlap, 1), size - overlap); each window ends at most at samples.",
        ),
        solution=cut,
        variants=[cut_by_counting, cut_until_the_end, cut_with_numpy],
        draw=draw_cut,
        edges=[(1, 2, 1), (90, 30, 0), (91, 30, 0), (29, 30, 0), (1, 30, 10), (40, 30, 10), (50, 30, 10), (51, 30, 10)],
        trial=run_cut,
        mistakes=[
            Mistake(whole_windows_alone, "That is the article's loss: the last window may be shorter."),
            Mistake(
                lambda samples, size, overlap: [
                    (start, start + size) for start in range(0, max(samples - overlap, 1), size - overlap)
                ],
                "No window may go beyond the last sample.",
            ),
            Mistake(
                lambda samples, size, overlap: [
                    (start, min(start + size, samples)) for start in range(0, samples, size)
                ],
                "Neighbours must share `overlap` samples.",
            ),
            Mistake(
                lambda samples, size, overlap: [
                    (start, min(start + size, samples)) for start in range(0, samples, size - overlap)
                ],
                "A window that lies inside of the one before says nothing new: end at the first that reaches the end.",
            ),
            Mistake(
                lambda samples, size, overlap: [(start, end - 1) for start, end in cut(samples, size, overlap)],
                "The end is the first sample that is not in the window, as in a slice.",
            ),
            Mistake(
                lambda samples, size, overlap: [(start, end - start) for start, end in cut(samples, size, overlap)],
                "Give each window's end, not its length.",
            ),
        ],
    ),
    Exercise(
        id="10.2",
        title="What two windows both say",
        hints=(
            "The end of the left text and the beginning of the right one may be the same words. How many?",
            "Try the largest number first: left[-n:] == right[:n].",
            "Write left, and of right what comes after the n words; n may be 0, and left[-0:] is all of left.",
        ),
        solution=join,
        variants=[join_by_trying_all, join_by_place, join_word_by_word],
        draw=draw_texts,
        edges=[
            (["a", "a"], ["a", "a"]),
            (["b", "a", "b"], ["a", "b", "b"]),
            ([], []),
            (["a"], []),
            ([], ["a"]),
            (["a", "b"], ["b", "a"]),
            (["a"], ["a"]),
            (["b"], ["a"]),
        ],
        mistakes=[
            Mistake(lambda left, right: left + right, "What both say is written twice."),
            Mistake(drop_shared, "A word may be said again: only the run of words at the seam is shared."),
            Mistake(shortest, "Of several overlaps the longest counts."),
            Mistake(
                lambda left, right: left[: len(left) - (len(left) + len(right) - len(join(left, right)))] + right[1:],
                "One word too many is left out.",
            ),
            Mistake(lambda left, right: join(right, left), "The left window comes first."),
        ],
    ),
    Exercise(
        id="10.3",
        title="What is stable, in the model",
        hints=(
            "Compare word by word from the beginning, and stop at the first that differs.",
            "A word is the same in another case, and with another mark after it.",
            "Take out all but letters, digits and apostrophes, fold the case, and count the common beginning.",
        ),
        solution=count_agreed,
        variants=[count_agreed_by_iterators, count_agreed_by_length, count_agreed_with_numpy],
        draw=draw_hypotheses,
        edges=[
            ([], ["ask"]),
            (["ask", "not"], ["ask", "not"]),
            (["ask", "not", "ask"], ["ask", "what", "ask"]),
            (["Ask,"], ["ask"]),
            (["it's"], ["its"]),
        ],
        trial=run_count_agreed,
        mistakes=[
            Mistake(
                lambda before, now: sum(spell(a) == spell(b) for a, b in zip(before, now, strict=False)),
                "After the first word that differs nothing is stable, even if it agrees again.",
            ),
            Mistake(
                lambda before, now: len(
                    list(itertools.takewhile(lambda pair: pair[0] == pair[1], zip(before, now, strict=False)))
                ),
                "Case and punctuation change while more is heard: they are no disagreement.",
            ),
            Mistake(
                lambda before, now: max(0, count_agreed(before, now) - 1),
                "The last word on which both agree is stable, too.",
            ),
            Mistake(lambda before, now: len(now), "One hypothesis alone makes nothing stable."),
            Mistake(lambda before, now: min(len(before), len(now)), "Compare the words, not their number alone."),
            Mistake(
                lambda before, now: now[: count_agreed(before, now)],
                "Give the number of words, not the words.",
            ),
        ],
    ),
]
