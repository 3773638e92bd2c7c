"""Solutions of the exercises in 00_start_here. They spoil the fun: try first."""

from __future__ import annotations

import numpy as np

from labsupport.course.exercises import Exercise, Mistake

# --- 0.1 --------------------------------------------------------------------------------------------------------------


def rtf(work_seconds, audio_seconds):
    return work_seconds / audio_seconds


def rtf_by_fraction(work_seconds, audio_seconds):
    from fractions import Fraction

    return float(Fraction(work_seconds) / Fraction(audio_seconds))


def rtf_by_power(work_seconds, audio_seconds):
    return work_seconds * audio_seconds**-1


def rtf_in_numpy(work_seconds, audio_seconds):
    return np.divide(work_seconds, audio_seconds)


def draw_seconds(rng):
    work, audio = rng.uniform(0.05, 300, 2).round(2)
    return float(work), float(audio)


# --- 0.2 --------------------------------------------------------------------------------------------------------------


def write_text(next_logits, prompt, end, limit):
    text = []
    while len(text) < limit:
        token = int(np.argmax(next_logits([*prompt, *text])))
        if token == end:
            break
        text.append(token)
    return text


def write_text_from_a_copy(next_logits, prompt, end, limit):
    tokens = list(prompt)
    for _ in range(limit):
        logits = np.asarray(next_logits(tokens))
        tokens.append(int(logits.argmax()))
        if tokens[-1] == end:
            return tokens[len(prompt) : -1]
    return tokens[len(prompt) :]


def write_text_by_recursion(next_logits, prompt, end, limit):
    if limit == 0:
        return []
    token = np.argmax(next_logits(prompt))
    return [] if token == end else [token, *write_text_by_recursion(next_logits, [*prompt, token], end, limit - 1)]


def write_text_by_sorting(next_logits, prompt, end, limit):
    text = ()
    for _ in range(limit):
        token = int(np.argsort(next_logits(list(prompt) + list(text)))[-1])
        if token == end:
            return text
        text += (token,)
    return text


def with_the_prompt(next_logits, prompt, end, limit):
    return [*prompt, *write_text(next_logits, prompt, end, limit)]


def with_the_end(next_logits, prompt, end, limit):
    text = write_text(next_logits, prompt, end, limit)
    return [*text, end] if len(text) < limit else text


def from_the_last_token(next_logits, prompt, end, limit):
    text = []
    while len(text) < limit and (token := int(np.argmax(next_logits([*prompt, *text][-1:])))) != end:
        text.append(token)
    return text


def without_the_prompt(next_logits, prompt, end, limit):
    text = []
    while len(text) < limit and (token := int(np.argmax(next_logits(text or prompt)))) != end:
        text.append(token)
    return text


def into_the_prompt(next_logits, prompt, end, limit):
    first = len(prompt)
    while len(prompt) - first < limit and (token := int(np.argmax(next_logits(prompt)))) != end:
        prompt.append(token)
    return prompt[first:]


def without_limit(next_logits, prompt, end, limit):
    return write_text(next_logits, prompt, end, 200)


def one_too_many(next_logits, prompt, end, limit):
    return write_text(next_logits, prompt, end, limit + 1)


class Scripted:
    """Logits that depend on all tokens so far, and on each one's place; `end` becomes likelier with the length."""

    def __init__(self, seed: int, vocab: int, end: int):
        self.seed, self.vocab, self.end = seed, vocab, end

    def __call__(self, tokens):
        logits = np.random.default_rng([self.seed, *map(int, tokens)]).standard_normal(self.vocab)
        logits[self.end] += 0.25 * len(tokens) - 1
        return logits


def draw_text(rng):
    vocab = int(rng.integers(3, 30))
    end = int(rng.integers(vocab))
    others = np.delete(np.arange(vocab), end)
    prompt = rng.choice(others, rng.integers(1, 5)).tolist()
    return Scripted(int(rng.integers(10**6)), vocab, end), prompt, end, int(rng.integers(0, 12))


def run_write_text(answer):
    """tiny.en, whose decoder reads all tokens anew at each step, as on this page without a cache."""
    from dataclasses import replace

    from labsupport.course import trials
    from labsupport.whisper.token_filters import filter_logits, make_prompt

    plain = trials.load_plain()
    rules = replace(plain.rules, timestamps=False)
    prompt = make_prompt(plain.tokenizer, None, timestamps=False)
    encoder_out = plain.model.encode(trials.log_mel())

    def next_logits(tokens):
        cache = plain.model.new_cache()
        plain.model.project_cross_kv(encoder_out, cache)
        logits = plain.model.prefill(np.array([tokens], np.int64), cache)[:, -1]  # (1, vocab)
        return filter_logits(logits, [list(tokens[len(prompt) :])], rules)[0]

    return trials.check_tokens(list(map(int, answer(next_logits, prompt, rules.eot, 60))))


EXERCISES = [
    Exercise(
        id="0.1",
        title="Real-time factor",
        hints=(
            "A factor below 1 is faster than real time: less work than sound.",
            "Seconds of work for each second of sound. Article A's first version gives a little more than 1.",
            "It is one division; which of the two is below?",
        ),
        solution=rtf,
        variants=[rtf_by_fraction, rtf_by_power, rtf_in_numpy],
        draw=draw_seconds,
        edges=[(95, 91), (60, 91)],
        mistakes=[
            Mistake(
                lambda work_seconds, audio_seconds: audio_seconds / work_seconds,
                "That is the other way round: how many seconds of sound a second of work does.",
            ),
            Mistake(
                lambda work_seconds, audio_seconds: work_seconds // audio_seconds,
                "`//` drops what is behind the decimal point; use `/`.",
            ),
            Mistake(
                lambda work_seconds, audio_seconds: work_seconds - audio_seconds,
                "A factor is a ratio, not a difference.",
            ),
            Mistake(
                lambda work_seconds, audio_seconds: int(work_seconds) / int(audio_seconds or 1),
                "Seconds have fractions: leave them as they are.",
            ),
            Mistake(
                lambda work_seconds, audio_seconds: round(work_seconds / audio_seconds, 2),
                "Do not round: the next calculation needs all digits.",
            ),
        ],
    ),
    Exercise(
        id="0.2",
        title="Write a text, token by token",
        hints=(
            "A loop: what the decoder sees grows by one token in each round. Which tokens does it need to see?",
            "Ask for the logits after the prompt and the text so far, and take the token whose logit is largest.",
            "Stop at the end token, which stays out, and at `limit` tokens. The prompt is no part of the text.",
        ),
        solution=write_text,
        variants=[write_text_from_a_copy, write_text_by_recursion, write_text_by_sorting],
        draw=draw_text,
        draws=30,
        trial=run_write_text,
        mistakes=[
            Mistake(with_the_prompt, "The prompt is not part of the text."),
            Mistake(with_the_end, "The end token only says that the text is over: leave it out."),
            Mistake(from_the_last_token, "The decoder must see all tokens so far, not the last one alone."),
            Mistake(without_the_prompt, "The prompt stays in front of the text in every round."),
            Mistake(into_the_prompt, "The caller's prompt must stay as it was: work on a copy."),
            Mistake(without_limit, "The text is at most `limit` tokens long."),
            Mistake(one_too_many, "That is one token too many: compare the text's length with `limit`."),
        ],
    ),
]
