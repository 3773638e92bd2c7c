"""What a contest says: who did the work, how fast, against whom; as a table, a plot and rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from labsupport.base.tables import drop_empty_columns, format_seconds, text_table
from labsupport.checkpoints.config import Config
from labsupport.engine.race.contest import Alone, Contest
from labsupport.engine.race.entrants import DOES_NOT_COUNT, GROUP, TIME, Entrant
from labsupport.engine.race.environment import find_environment
from labsupport.engine.race.judging import Score, find_fault, find_impossible, score, set_bar
from labsupport.engine.race.ours import PARTS, encoder_flops, linear_flops
from labsupport.machine.description import installed_version
from labsupport.machine.roofline import Roofline
from labsupport.optim.kv_cache import step_bytes
from labsupport.optim.memory_model import BITS
from labsupport.results import rows
from labsupport.results.load import Load
from labsupport.results.timing import Comparison, Measurement, Ratio
from labsupport.speech.features import WINDOW_FRAMES
from labsupport.speech.recording import FRAME_SECONDS
from labsupport.speech.text import Tokenizer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CROSS_KV = {"int8": "bfloat16"}  # how an engine keeps cross-attention's keys and values whose weights are so
WINDOW_SECONDS = WINDOW_FRAMES * FRAME_SECONDS


@dataclass(frozen=True)
class Result:
    """One entrant that finished.

    tokens: of its text, by one tokenizer for all; generated: as the engine counts what it made.
    fault: why its time does not count.
    """

    entrant: Entrant
    timed: Measurement
    alone: Alone
    score: Score
    tokens: int
    generated: int | None = None
    fault: str | None = None


@dataclass(frozen=True)
class Outcome:
    """Of one contest. reference: the entrant whose text the others' are held against."""

    contest: Contest
    timed: Comparison
    results: list[Result]
    reference: str

    @property
    def ranking(self) -> list[Result]:
        """Those that did the work, the fastest first."""
        return sorted((each for each in self.results if each.fault is None), key=lambda each: each.timed.median)

    def find(self, name: str) -> Result:
        return next(each for each in self.results if each.entrant.name == name)

    def gain(self, fast: Result, slow: Result) -> Ratio:
        """How many times as fast the one is as the other, from the rounds in pairs."""
        return self.timed.speedup(slow.timed.name, fast.timed.name)


def judge(
    contest: Contest, entrants: Sequence[Entrant], tokenizer: Tokenizer, config: Config, limits: Roofline
) -> Outcome | None:
    """Scores all that finished, against the first of them that is not ours; None if nobody finished."""
    finished = [each for each in entrants if each.name in contest.times]
    if not finished:
        return None
    timed = contest.comparison()
    reference = next((each for each in finished if not each.is_ours), finished[0])
    scores = {each.name: worst_score(contest, each.name) for each in finished}
    bar = set_bar(scores[reference.name], list(scores.values()))
    least = least_seconds(contest.sound.speech, config, limits)
    results = []
    for entrant in finished:
        found, answer = scores[entrant.name], contest.answers[entrant.name][-1]
        # the fastest round: one that was skipped shows, however slow the others were
        fault = find_fault(found, bar) or find_impossible(min(timed[entrant.name].wall), least)
        tokens = sum(len(tokenizer.encode(text)) for text in answer["texts"])
        results.append(Result(
            entrant, timed[entrant.name], contest.alone[entrant.name], found, tokens, answer["tokens"], fault
        ))  # fmt: skip
    return Outcome(contest, timed, results, reference.name)


def worst_score(contest: Contest, name: str) -> Score:
    """Of all rounds' answers: the work must be done in each."""
    texts = {tuple(answer["texts"]) for answer in contest.answers[name]}
    return max((score(contest.sound, each) for each in sorted(texts)), key=lambda each: (each.wer, each.lost))


def least_seconds(speech: float, config: Config, limits: Roofline) -> float:
    """Less than this no encoder takes on this machine over so many seconds of speech.

    In whichever dtype is fastest here; without attention, which short windows save; and by kernels twice as good as
    those that were measured.
    """
    return speech / WINDOW_SECONDS * linear_flops(config) / max(limits.matmul.values()) / 2


# --- ours: where the time goes, and how near to the machine's limits --------------------------------------------------


def fractions(result: Result, config: Config, limits: Roofline) -> dict[str, float]:
    """Part -> the fraction of the roofline that it reached: encoder and decode steps, by the entrant's arithmetic.

    A step reads at least the decoder's weights once, in as many bits, and each text's cross-attention keys and values,
    in sixteen if those are fewer.
    """
    split, arithmetic = result.alone.split or {}, result.entrant.arithmetic
    found = {}
    if (encode := split.get("encode")) and encode["rows"]:
        work = encoder_flops(config, encode["places"], encode["squares"])
        found["encode"] = limits.fraction(encode["seconds"], flops=work, dtype=arithmetic)
    if (step := split.get("decode_step")) and step["calls"]:
        moved, windows = step_bytes(config, 0), step["places"] / config.audio_positions
        weights = BITS[arithmetic] / BITS["float32"] * moved["weights"]
        cross_kv = BITS[CROSS_KV.get(arithmetic, arithmetic)] / BITS["float32"] * moved["cross_kv"]
        read = step["calls"] * weights + windows * cross_kv
        found["decode_step"] = limits.fraction(step["seconds"], bytes=read)
    return found


def split_table(outcome: Outcome, config: Config, limits: Roofline) -> str:
    """For each of ours: seconds of each part in one transcription, and the fraction of the roofline."""
    lines = [["ours, by part", *PARTS, "all", "encoder of roofline", "step of roofline"]]
    for result in outcome.results:
        if split := result.alone.split:
            near = fractions(result, config, limits)
            seconds = [format_seconds(split[part]["seconds"]) if part in split else "" for part in (*PARTS, "all")]
            reached = [f"{near[part]:.0%}" if part in near else "" for part in ("encode", "decode_step")]
            lines.append([result.entrant.name, *seconds, *reached])
    return text_table(lines) if len(lines) > 1 else ""


# --- table, plot, rows ------------------------------------------------------------------------------------------------


def time_table(outcome: Outcome) -> str:
    """A line for each that finished, the fastest first; those whose time does not count last."""
    ordered = order(outcome)
    reference = outcome.find(outcome.reference)
    columns = {
        "entrant": [each.entrant.name for each in ordered],
        "seconds": [f"{each.timed.median:.3g}" for each in ordered],
        "spread": [f"{each.timed.spread:.2g}" for each in ordered],
        "RTF": [f"{each.timed.rtf:.3f}" for each in ordered],
        "CPU s": [f"{each.timed.cpu_median:.3g}" for each in ordered],
        "WER": [f"{each.score.wer:.1%}" for each in ordered],
        "words": [str(each.score.word_count) for each in ordered],
        "tokens": [str(each.tokens) for each in ordered],
        f"times as fast as {outcome.reference}": [
            "" if each is reference else str(outcome.gain(each, reference)) for each in ordered
        ],
    }
    return text_table(drop_empty_columns(columns))


def cost_table(outcome: Outcome) -> str:
    """What each needs beside time, in the order of `time_table`."""
    ordered = order(outcome)
    columns = {
        "entrant": [each.entrant.name for each in ordered],
        "peak MB": [f"{each.alone.peak / 1e6:.0f}" for each in ordered],
        "with loading": [f"{each.alone.peak_ever / 1e6:.0f}" for each in ordered],
        "model MB": [f"{each.alone.disk / 1e6:.0f}" for each in ordered],
        "load s": [f"{each.alone.load:.2g}" for each in ordered],
        "first s": [f"{each.alone.first:.2g}" for each in ordered],
        "made": ["" if each.generated is None else f"{each.generated} tokens" for each in ordered],
    }
    return text_table(drop_empty_columns(columns))


def order(outcome: Outcome) -> list[Result]:
    return [*outcome.ranking, *(each for each in outcome.results if each.fault)]


def remarks(outcome: Outcome, threads: int) -> Iterator[str]:
    """Sentences below the table: who is fastest, whose time does not count, who took more threads, what differs."""
    yield "Errors and words are counted after Whisper's normaliser, tokens by one tokenizer for all texts."
    yield from describe_winner(outcome)
    for each in outcome.results:
        if each.fault:
            yield f"Does not count: {each.entrant.name}: {each.fault}."
        if each.timed.cpu_median > (threads + 0.2) * each.timed.median:
            used = each.timed.cpu_median / each.timed.median
            yield f"More threads than {threads}: {each.entrant.name} used {used:.1f}."
        if each.entrant.differs:
            yield f"Not as the others: {each.entrant.name}: {each.entrant.differs}."
    yield from (f"Did not finish: {name}: {error}" for name, error in outcome.contest.errors.items())


def describe_winner(outcome: Outcome) -> Iterator[str]:
    """The fastest of those that did the work; and our fastest beside the peers' fastest."""
    if not outcome.ranking:
        yield "Nobody did the work."
        return
    first, *rest = outcome.ranking
    beside = f" As fast as the next, {rest[0].entrant.name}: {outcome.gain(first, rest[0])}." if rest else ""
    yield f"The fastest: {first.entrant.name}.{beside}"
    if pair := find_pair(outcome):
        names = [each.entrant.name for each in pair]
        yield f"Our fastest, {names[0]}, as fast as the fastest peer, {names[1]}: {outcome.gain(*pair)}."


def find_pair(outcome: Outcome) -> tuple[Result, Result] | None:
    """Our fastest, and the fastest peer, of those that did the work."""
    mine = next((each for each in outcome.ranking if each.entrant.is_ours), None)
    peer = next((each for each in outcome.ranking if not each.entrant.is_ours), None)
    return (mine, peer) if mine and peer else None


def draw(outcome: Outcome, model: str) -> Figure:
    """Seconds of each that did the work, the fastest on top, with the spread of the rounds."""
    from labsupport.base import plots

    seconds = {each.entrant.name: each.timed.median for each in outcome.ranking}
    spreads = {each.entrant.name: each.timed.spread for each in outcome.ranking}
    sound = outcome.contest.sound
    return plots.bars(seconds, "seconds", f"{model}, {sound.name}: {sound.seconds:.0f} s of sound", spreads)


def record(outcome: Outcome, model: str, config: Config, limits: Roofline, group: str = GROUP) -> None:
    """A row for each number of each entrant; of one that did not do the work the note says why.

    Our fastest brings its gain against the fastest peer, every other its gain against the reference entrant.
    """
    reference, pair = outcome.find(outcome.reference), find_pair(outcome)
    load = outcome.contest.load or Load(None, None)
    for each in outcome.results:
        name, timed = each.entrant.name, each.timed
        shared = {"group": group, "model": model, "clip": outcome.contest.sound.name, "note": describe(each)}
        measured: dict[str, Any] = {"spread": timed.spread, "runs": len(timed.wall), "peak_bytes": each.alone.peak}
        measured |= {"load_before": load.before, "load_during": load.during}
        against = pair[1] if pair and each is pair[0] else reference
        if each is not against and each.fault is None:
            measured |= {"gain": interval(outcome.gain(each, against)), "against": against.entrant.name}
        rows.record(f"{TIME}: {name}", timed.median, "s", **measured, **shared)
        if each is not reference and each.fault is None:
            value, low, high = interval(outcome.gain(each, reference))
            rows.record(f"as fast as {outcome.reference}: {name}", value, "times", low=low, high=high, **shared)
        for what, (value, unit) in numbers(each, fractions(each, config, limits)).items():
            rows.record(f"{what}: {name}", value, unit, **shared)


def interval(ratio: Ratio) -> tuple[float, float, float]:
    return ratio.value, ratio.low, ratio.high


def numbers(result: Result, near: Mapping[str, float]) -> dict[str, tuple[float, str]]:
    """What a row beside the time says -> value and unit."""
    alone = result.alone
    found: dict[str, tuple[float, str]] = {
        "CPU time": (result.timed.cpu_median, "s"),
        "peak memory": (alone.peak / 1e6, "MB"),
        "peak memory with loading": (alone.peak_ever / 1e6, "MB"),
        "model on disk": (alone.disk / 1e6, "MB"),
        "loading": (alone.load, "s"),
        "first run": (alone.first, "s"),
        "word error rate": (100 * result.score.wer, "%"),
        "words": (result.score.word_count, "words"),
        "tokens": (result.tokens, "tokens"),
    }
    for part, entry in (alone.split or {}).items():
        if part != "all" and entry["calls"]:
            found[part] = (entry["seconds"], "s")
    return found | {f"{part}, of the roofline": (100 * value, "%") for part, value in near.items()}


def describe(result: Result) -> str:
    """A row's note: the package and its version, what differs, and why the time does not count, if so."""
    entrant = result.entrant
    if entrant.home == "race" and (environment := find_environment()):
        version = environment.versions(entrant.package).get(entrant.package)
    else:
        version = installed_version(entrant.package)
    fault = f"{DOES_NOT_COUNT}: {result.fault}" if result.fault else ""
    return "; ".join(filter(None, [f"{entrant.package} {version or ''}".strip(), entrant.differs, fault]))
