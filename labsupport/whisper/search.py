"""From encoded sound to tokens: greedy and beam search, language detection.

Everything here is NumPy and works on any model of `protocol.py`, whatever its backend.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from labsupport.speech.text import Tokenizer
from labsupport.whisper.token_filters import TokenRules, filter_logits, log_softmax


@dataclass
class Hypothesis:
    """One window's text: tokens without the end, the mean log-probability of each, and how likely nobody spoke."""

    tokens: list[int]
    logprob: float
    no_speech: float


def prefill(model, audio, prompt: list[int], rules: TokenRules):
    """Reads the prompt for every window at once.

    Returns:
        the cache, the next token's logits (windows, vocab), and each window's probability that nobody speaks.
    """
    cache = model.new_cache()
    logits = model.step(np.tile(np.array(prompt, np.int64), (len(audio), 1)), audio, cache)
    return cache, logits[:, -1], np.exp(log_softmax(logits[:, 0])[:, rules.no_speech])


def greedy(model, audio, prompt: list[int], rules: TokenRules, limit: int | None = None) -> list[Hypothesis]:
    """Takes the likeliest token at every step; a window whose text has ended leaves the batch.

    Args:
        audio: what `model.encode` gave, one row a window.
        limit: most tokens a window; by default all that the decoder's positions allow.
    """
    cache, logits, no_speech = prefill(model, audio, prompt, rules)
    texts = [Hypothesis([], 0.0, float(p)) for p in no_speech]
    open_texts = list(texts)
    for _ in range(limit or model.config.text_positions - len(prompt)):
        allowed = filter_logits(logits, [text.tokens for text in open_texts], rules)
        chosen = allowed.argmax(-1)
        scores = log_softmax(allowed)[np.arange(len(chosen)), chosen]
        for text, token, score in zip(open_texts, chosen, scores, strict=True):
            text.tokens.append(int(token))
            text.logprob += float(score)
        rows = np.flatnonzero(chosen != rules.eot)
        if len(rows) == 0:
            break
        if len(rows) < len(open_texts):
            audio, open_texts = model.keep(rows, audio, cache), [open_texts[row] for row in rows]
        logits = model.step(chosen[rows, None], audio, cache)[:, -1]
    return [finish(text, rules) for text in texts]


def finish(text: Hypothesis, rules: TokenRules) -> Hypothesis:
    """Drops the end token, and turns the sum of log-probabilities into their mean."""
    mean = text.logprob / max(1, len(text.tokens))
    return Hypothesis([token for token in text.tokens if token != rules.eot], mean, text.no_speech)


class Beams:
    """One window's beams: those still running, and the best that have ended, scored by mean log-probability.

    The rule is transformers': `beams` texts must have ended, and no running one may still overtake the worst of them.
    """

    def __init__(self, count: int, eot: int):
        self.count, self.eot = count, eot
        self.texts: list[list[int]] = [[]]
        self.sums = np.zeros(1, np.float32)
        self.ended: list[tuple[float, list[int]]] = []

    def advance(self, logprobs: np.ndarray, last: bool) -> np.ndarray:
        """Takes a step with (running, vocab) log-probabilities; gives the parent row of each beam that runs on."""
        totals = (self.sums[:, None] + logprobs).ravel()
        best = np.argpartition(-totals, 2 * self.count)[: 2 * self.count]
        best = best[np.argsort(-totals[best], kind="stable")]
        parents, tokens = np.divmod(best, logprobs.shape[1])
        grown = [[*self.texts[parent], int(token)] for parent, token in zip(parents, tokens, strict=True)]
        ends = (tokens == self.eot) | last
        self.ended += [(totals[best[i]] / len(grown[i]), grown[i]) for i in range(self.count) if ends[i]]
        self.ended = sorted(self.ended, key=lambda pair: -pair[0])[: self.count]
        runs = np.flatnonzero(tokens != self.eot)[: self.count]
        self.texts, self.sums = [grown[i] for i in runs], totals[best[runs]]
        return parents[runs]

    @property
    def done(self) -> bool:
        if len(self.ended) < self.count:
            return False
        return bool(self.sums[0] / len(self.texts[0]) <= self.ended[-1][0])


def beam_search(
    model, audio, prompt: list[int], rules: TokenRules, beams: int = 5, limit: int | None = None
) -> list[Hypothesis]:
    """Keeps the `beams` likeliest texts of every window at each step; arguments as for `greedy`."""
    cache, logits, no_speech = prefill(model, audio, prompt, rules)
    windows = [Beams(beams, rules.eot) for _ in no_speech]
    running = list(windows)
    limit = limit or model.config.text_positions - len(prompt)
    for step in range(limit):
        texts = [text for beam in running for text in beam.texts]
        # scored before the rules, as transformers does: a forbidden token leaves the others' scores as they were
        scores = np.where(np.isfinite(filter_logits(logits, texts, rules)), log_softmax(logits), -np.inf)
        starts = np.cumsum([0] + [len(beam.texts) for beam in running])
        parents = [
            start + beam.advance(scores[start : start + len(beam.texts)], step == limit - 1)
            for beam, start in zip(running, starts[:-1], strict=True)
        ]
        going = [i for i, beam in enumerate(running) if not beam.done]
        if not going or step == limit - 1:
            break
        rows = np.concatenate([parents[i] for i in going])
        same_windows = step > 0 and len(going) == len(running)
        if same_windows:
            model.reorder(rows, cache)
        else:
            audio = model.keep(rows, audio, cache)
        running = [running[i] for i in going]
        tokens = np.array([text[-1] for beam in running for text in beam.texts], np.int64)
        logits = model.step(tokens[:, None], audio, cache)[:, -1]
    best = [beam.ended[0] for beam in windows]
    return [
        Hypothesis([t for t in tokens if t != rules.eot], float(score), float(p))
        for (score, tokens), p in zip(best, no_speech, strict=True)
    ]


def detect_language(model, audio, tokenizer: Tokenizer) -> list[tuple[str, float]]:
    """The likeliest language of each window and its probability among the languages."""
    codes, ids = list(tokenizer.languages), list(tokenizer.languages.values())
    if hasattr(model, "hear_language"):  # a decoder for this alone
        logits = model.hear_language(audio)
    else:
        logits = model.step(np.full((len(audio), 1), tokenizer.sot, np.int64), audio, model.new_cache())[:, -1, ids]
    scores = np.exp(log_softmax(logits))
    return [(codes[row.argmax()], float(row.max())) for row in scores]


def decode(model, audio, prompt: list[int], rules: TokenRules, beams: int) -> list[Hypothesis]:
    """Greedy for one beam, beam search for more."""
    if beams == 1:
        return greedy(model, audio, prompt, rules)
    return beam_search(model, audio, prompt, rules, beams)
