"""From the encoder's output to tokens: greedy, beam search, drawn at a temperature; language detection.

Everything here is NumPy and works on any `protocol.WhisperModel`, whatever its backend.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from labsupport.speech.text import Tokenizer
from labsupport.whisper.protocol import Cache, EncoderOut, WhisperModel
from labsupport.whisper.token_filters import TokenRules, filter_logits, log_softmax

LOOP_TOKENS = 48  # so many tokens of nothing but repetitions are a loop: 20 s of speech
LOOP_REPEATS = 4
LONGEST_PERIOD = 60  # tokens; a sentence has about 20


@dataclass
class Hypothesis:
    """One window's text: tokens without the end, their mean log-probability, and the probability of no speech.

    `guards` adds the temperature that gave the text, how well it compresses, and whether it repeats itself.
    """

    tokens: list[int]
    avg_logprob: float
    no_speech_prob: float
    temperature: float = 0.0
    compression_ratio: float = 0.0
    repeats: bool = False


def prefill_prompt(
    model: WhisperModel, encoder_out: EncoderOut, prompt: list[int], rules: TokenRules
) -> tuple[Cache, np.ndarray, np.ndarray]:
    """Gives every window the prompt.

    Returns:
        the cache, the next token's logits (windows, vocab), and each window's probability of no speech (windows,).
    """
    cache = model.new_cache()
    model.project_cross_kv(encoder_out, cache)
    tokens = np.tile(np.array(prompt, np.int64), (len(encoder_out), 1))  # (windows, prompt)
    start = prompt.index(rules.sot) if rules.sot in prompt else 0  # text from before may come first
    # without the text before, whose logits are 47 MB: (windows, prompt - start, vocab)
    logits = model.prefill(tokens, cache, logits_to_keep=len(prompt) - start)
    last = logits[:, -1].copy()  # a view would hold those of the whole prompt
    return cache, last, np.exp(log_softmax(logits[:, 0])[:, rules.no_speech])


def greedy(
    model: WhisperModel,
    encoder_out: EncoderOut,
    prompt: list[int],
    rules: TokenRules,
    limit: int | None = None,
    stop_loops: bool = False,
) -> list[Hypothesis]:
    """Takes the likeliest token at every step; a window whose text has ended leaves the batch.

    Args:
        encoder_out: (windows, 1500, d_model), what `model.encode` gave.
        limit: most tokens a window; by default all that the decoder's positions allow.
        stop_loops: end a text that does nothing but repeat itself, see `find_loop`.
    """
    cache, logits, no_speech_probs = prefill_prompt(model, encoder_out, prompt, rules)
    limit = limit or model.config.text_positions - len(prompt)
    texts, logprobs = extend_rows(model, cache, logits, rules, limit, lambda row: row.argmax(-1), stop_loops)
    return [Hypothesis(*each) for each in zip(texts, logprobs, no_speech_probs.tolist(), strict=True)]


def sample(
    model: WhisperModel,
    encoder_out: EncoderOut,
    prompt: list[int],
    rules: TokenRules,
    temperature: float,
    best_of: int,
    rng: np.random.Generator,
) -> list[Hypothesis]:
    """Draws `best_of` texts for each window, and gives the one with the highest mean log-probability.

    Args:
        temperature: above 0; the logits are divided by it: 1 draws by the model's own probabilities, less by sharper
            ones. Loops are stopped, see `find_loop`.

    Source: GreedyDecoder and MaximumLikelihoodRanker in openai-whisper, decoding.py.
    """
    cache, logits, no_speech_probs = prefill_prompt(model, encoder_out, prompt, rules)
    rows = np.repeat(np.arange(len(logits)), best_of)
    model.select_rows(rows, cache)

    def draw(allowed: np.ndarray) -> np.ndarray:
        # adding Gumbel noise and taking the largest draws by softmax's probabilities; float64 and below the largest,
        # because divided by 1e-300 all would be infinite, and the first token be taken
        below = (allowed - allowed.max(-1, keepdims=True)).astype(np.float64)  # (running, vocab)
        with np.errstate(over="ignore"):  # -infinity: a token that is not drawn
            return (below / temperature + rng.gumbel(size=allowed.shape)).argmax(-1)

    limit = model.config.text_positions - len(prompt)
    texts, logprobs = extend_rows(model, cache, logits[rows], rules, limit, draw, stop_loops=True)
    best = np.array(logprobs).reshape(-1, best_of).argmax(-1) + best_of * np.arange(len(no_speech_probs))
    return [Hypothesis(texts[row], logprobs[row], float(p)) for row, p in zip(best, no_speech_probs, strict=True)]


def extend_rows(
    model: WhisperModel,
    cache: Cache,
    logits: np.ndarray,
    rules: TokenRules,
    limit: int,
    choose: Callable[[np.ndarray], np.ndarray],
    stop_loops: bool,
) -> tuple[list[list[int]], list[float]]:
    """Goes on with every row of the cache until its text ends.

    Args:
        logits: (rows, vocab) of each row's next token.
        choose: (running, vocab) allowed logits -> (running,) tokens.

    Returns:
        each row's tokens without the end, and their mean log-probability, the end counted.
    """
    texts: list[list[int]] = [[] for _ in logits]
    running, sums = list(range(len(texts))), np.zeros(len(texts))
    for _ in range(limit):
        allowed = filter_logits(logits, [texts[row] for row in running], rules)
        chosen = choose(allowed)  # (running,)
        sums[running] += log_softmax(allowed)[np.arange(len(chosen)), chosen]
        for row, token in zip(running, chosen, strict=True):
            texts[row].append(int(token))
        ended = [stop_loops and find_loop(texts[row], rules) is not None for row in running]
        rows = np.flatnonzero((chosen != rules.eot) & ~np.array(ended))
        if len(rows) == 0:
            break
        if len(rows) < len(running):
            model.select_rows(rows, cache)
            running = [running[row] for row in rows]
        logits = model.decode_step(chosen[rows], cache)  # (running, vocab)
    logprobs = [float(total / max(1, len(text))) for total, text in zip(sums, texts, strict=True)]
    return [[token for token in text if token != rules.eot] for text in texts], logprobs


def find_loop(tokens: list[int], rules: TokenRules) -> int | None:
    """Where a text's repetitions have been said once, if it ends in at least four and 48 tokens of them, else None.

    Timestamps do not count: in a loop they run on.

    Returns:
        the number of `tokens` up to the end of the first repetition.
    """
    places = [i for i, token in enumerate(tokens) if token < rules.eot]
    text = np.array([tokens[i] for i in places])
    for period in range(1, min(LONGEST_PERIOD, len(text) // LOOP_REPEATS) + 1):
        differs = np.flatnonzero(text[period:] != text[:-period])
        start = differs[-1] + 1 if len(differs) else 0  # from here on every token is the one `period` before
        if len(text) - start >= max(LOOP_TOKENS, LOOP_REPEATS * period):
            return places[start + period - 1] + 1
    return None


class BeamGroup:
    """One window's beams: those still running, and the best that have ended, scored by mean log-probability.

    The rule is transformers': `beams` texts must have ended, and no running one may still overtake the worst of them.
    """

    def __init__(self, beams: int, eot: int):
        self.beams, self.eot = beams, eot
        self.texts: list[list[int]] = [[]]
        self.sums = np.zeros(1, np.float32)
        self.ended: list[tuple[float, list[int]]] = []

    def advance(self, logprobs: np.ndarray, last: bool) -> np.ndarray:
        """Takes a step with (running, vocab) log-probabilities; gives the parent row of each beam that runs on."""
        totals = (self.sums[:, None] + logprobs).ravel()  # (running * vocab,)
        best = np.argpartition(-totals, 2 * self.beams)[: 2 * self.beams]
        best = best[np.argsort(-totals[best], kind="stable")]
        parents, tokens = np.divmod(best, logprobs.shape[1])
        grown = [[*self.texts[parent], int(token)] for parent, token in zip(parents, tokens, strict=True)]
        ends = (tokens == self.eot) | last
        self.ended += [(totals[best[i]] / len(grown[i]), grown[i]) for i in range(self.beams) if ends[i]]
        self.ended = sorted(self.ended, key=lambda pair: -pair[0])[: self.beams]
        runs = np.flatnonzero(tokens != self.eot)[: self.beams]
        self.texts, self.sums = [grown[i] for i in runs], totals[best[runs]]
        return parents[runs]

    @property
    def done(self) -> bool:
        if len(self.ended) < self.beams:
            return False
        return bool(self.sums[0] / len(self.texts[0]) <= self.ended[-1][0])


def beam_search(
    model: WhisperModel,
    encoder_out: EncoderOut,
    prompt: list[int],
    rules: TokenRules,
    beams: int = 5,
    limit: int | None = None,
) -> list[Hypothesis]:
    """Goes on from the `beams` likeliest texts of every window at each step; arguments as for `greedy`."""
    cache, logits, no_speech_probs = prefill_prompt(model, encoder_out, prompt, rules)
    windows = [BeamGroup(beams, rules.eot) for _ in no_speech_probs]
    running = list(windows)
    limit = limit or model.config.text_positions - len(prompt)
    for step in range(limit):
        parents = advance_groups(running, logits, rules, last=step == limit - 1)
        going = [i for i, group in enumerate(running) if not group.done]
        if not going or step == limit - 1:
            break
        rows = np.concatenate([parents[i] for i in going])
        if step > 0 and len(going) == len(running):
            model.reorder_beams(rows, cache)
        else:
            model.select_rows(rows, cache)
        running = [running[i] for i in going]
        tokens = np.array([text[-1] for group in running for text in group.texts], np.int64)
        logits = model.decode_step(tokens, cache)  # (rows, vocab)
    best = [group.ended[0] for group in windows]
    return [
        Hypothesis([t for t in tokens if t != rules.eot], float(score), float(p))
        for (score, tokens), p in zip(best, no_speech_probs, strict=True)
    ]


def advance_groups(groups: list[BeamGroup], logits: np.ndarray, rules: TokenRules, last: bool) -> list[np.ndarray]:
    """Gives each group its rows of (rows, vocab) logits; returns the parent rows, in the batch, of its beams."""
    texts = [text for group in groups for text in group.texts]
    # scored before the rules, as transformers does: a forbidden token leaves the others' scores as they were
    scores = np.where(np.isfinite(filter_logits(logits, texts, rules)), log_softmax(logits), -np.inf)
    starts = np.cumsum([0] + [len(group.texts) for group in groups])
    return [
        start + group.advance(scores[start : start + len(group.texts)], last)
        for group, start in zip(groups, starts[:-1], strict=True)
    ]


def decode(
    model: WhisperModel, encoder_out: EncoderOut, prompt: list[int], rules: TokenRules, beams: int
) -> list[Hypothesis]:
    """Greedy for one beam, beam search for more; greedy stops a text that only repeats itself."""
    if beams == 1:
        return greedy(model, encoder_out, prompt, rules, stop_loops=True)
    return beam_search(model, encoder_out, prompt, rules, beams)


def detect_language(model: WhisperModel, encoder_out: EncoderOut, tokenizer: Tokenizer) -> list[tuple[str, float]]:
    """The likeliest language of each window, and its probability among the languages."""
    codes = list(tokenizer.languages)
    return [(codes[row.argmax()], float(row.max())) for row in language_probs(model, encoder_out, tokenizer)]


def language_probs(model: WhisperModel, encoder_out: EncoderOut, tokenizer: Tokenizer) -> np.ndarray:
    """(windows, languages) probabilities, in the tokenizer's order; each row's sum is 1."""
    return np.exp(log_softmax(language_logits(model, encoder_out, tokenizer)))


def language_logits(model: WhisperModel, encoder_out: EncoderOut, tokenizer: Tokenizer) -> np.ndarray:
    """(windows, languages) float32, in the tokenizer's order: what follows the start of the transcript."""
    if hasattr(model, "language_logits"):  # article B's pipeline has a graph for this alone
        return model.language_logits(encoder_out)
    cache = model.new_cache()
    model.project_cross_kv(encoder_out, cache)
    logits = model.prefill(np.full((len(encoder_out), 1), tokenizer.sot, np.int64), cache)  # (windows, 1, vocab)
    return logits[:, -1, list(tokenizer.languages.values())]
