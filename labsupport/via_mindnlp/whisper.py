"""transformers' own Whisper on MindSpore, through MindNLP, as article A's readers run it: measured token by token.

`import mindnlp` puts a torch of its own (mindtorch, written on MindSpore) in the place of torch, for the whole process.
So it runs in a process of its own, which `run_whisper` starts. Each of the last tokens is measured in another way; what
fails is reported with its error.
"""

from __future__ import annotations

import cProfile
import pstats
import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from labsupport.checkpoints.resolve import find_checkpoint
from labsupport.machine.backend import synchronise
from labsupport.profiling.kinds import op_kind
from labsupport.profiling.table import Table, make_table
from labsupport.results.timing import Ratio, paired_ratio
from labsupport.speech import audio
from labsupport.via_mindnlp.process import import_mindnlp, measure_apart, require_mindnlp, try_call


@dataclass(frozen=True)
class WhisperRun:
    """What was measured. Times in seconds.

    tokens: the model's, without the prompt; text: the first of them, through transformers' pipeline.
    first_token: encoder and prompt included. steps: decode steps "as it is" and "mended" (see `mended_linear`), timed
    in turns. threads: CPU time of a step by the thread's name; python: Python's own profile of a step; ops: a step's
    ops, each waited for. failures: what was tried, and its error, None where it worked.
    """

    tokens: list[int]
    text: str
    import_seconds: float
    first_token: float
    steps: dict[str, list[float]]
    threads: dict[str, float]
    python: Table
    ops: Table
    failures: dict[str, str | None]

    @property
    def gain(self) -> Ratio:
        """How many times faster a mended step is."""
        return paired_ratio(tuple(self.steps["as it is"]), tuple(self.steps["mended"]))


# --- in the caller's process ------------------------------------------------------------------------------------------


def run_whisper(
    model: str = "tiny.en", clip: str = "jfk", attention: str = "sdpa", pairs: int = 3, timeout: float = 600
) -> WhisperRun:
    """The first tokens of a clip, on MindSpore's backend of this machine, in a process of its own.

    Args:
        pairs: decode steps timed as they are, and as many mended; each pair takes seconds.
        timeout: seconds.

    Raises:
        NotAvailable: MindNLP is not installed.
        MindnlpError: the process failed, or did not end in time.
    """
    require_mindnlp()
    with tempfile.TemporaryDirectory() as folder:
        return parse_result(measure_apart(__name__, [model, clip, attention, pairs], folder, timeout))


def parse_result(found: dict) -> WhisperRun:
    """The process's JSON as a WhisperRun."""
    tables = {name: make_table([(*row, "cpu") for row in found[name]]) for name in ("python", "ops")}
    return WhisperRun(**found | tables)


# --- in the process of its own ----------------------------------------------------------------------------------------


def measure(model: str, clip: str, attention: str, pairs: int) -> dict:
    """All measurements: the fields of `WhisperRun`, with tables as rows."""
    start = time.perf_counter()
    import_mindnlp()
    from transformers import WhisperForConditionalGeneration, pipeline

    import_seconds = time.perf_counter() - start
    folder = str(find_checkpoint(model).folder)
    network = WhisperForConditionalGeneration.from_pretrained(folder, attn_implementation=attention)
    samples = audio.read(audio.clip(clip).path)
    failures = {"the feature extractor, on mindtorch": try_call(lambda: extract(folder, samples))}
    use_numpy_features()
    return {
        "import_seconds": import_seconds,
        **generate_tokens(network, extract(folder, samples), pairs),
        "text": transcribe_first_token(pipeline, folder, network, samples),
        "failures": failures | try_article(WhisperForConditionalGeneration, network, folder),
    }


def use_numpy_features() -> None:
    """mindtorch has no hann_window, which the feature extractor would take; it has a second path, in NumPy."""
    from transformers.models.whisper import feature_extraction_whisper

    feature_extraction_whisper.is_torch_available = lambda: False


def extract(folder: str, samples):
    """(1, mels, 3000) float32 log-mel features."""
    from transformers import WhisperFeatureExtractor

    extractor = WhisperFeatureExtractor.from_pretrained(folder)
    return extractor(samples, sampling_rate=audio.SAMPLE_RATE, return_tensors="np").input_features


def transcribe_first_token(pipeline: Callable, folder: str, network, samples) -> str:
    """The first token again, as the article runs it: through transformers' pipeline."""
    asr = pipeline("automatic-speech-recognition", model=network, tokenizer=folder, feature_extractor=folder)
    sound = {"raw": samples.copy(), "sampling_rate": audio.SAMPLE_RATE}
    return asr(sound, generate_kwargs={"max_new_tokens": 1, "num_beams": 1})["text"]


def try_article(whisper: Any, network, folder: str) -> dict[str, str | None]:
    """What else the article's code asks for."""
    return {
        'attn_implementation="flash_attention_2"': try_call(
            lambda: whisper.from_pretrained(folder, attn_implementation="flash_attention_2")
        ),
        'model.to("npu")': try_call(lambda: network.to("npu")),
    }


# --- token by token ---------------------------------------------------------------------------------------------------


class TokenByToken:
    """Stands among transformers' logits processors, changes nothing, and hands each token to the next instrument."""

    def __init__(self, instruments: list[AbstractContextManager]):
        self.waiting, self.open = iter(instruments), ExitStack()

    def __call__(self, _tokens=None, scores=None):
        synchronise()  # what the last token left in MindSpore's queues belongs to it
        self.open.close()
        self.open.enter_context(next(self.waiting, nullcontext()))
        return scores


def generate_tokens(network, features, pairs: int) -> dict:
    """One token for each instrument; the tokens and what the instruments measured, by `WhisperRun`'s names."""
    import mindtorch

    measured: dict[str, Any] = {}
    first: list[float] = []
    plain: list[float] = []
    mended: list[float] = []
    in_turns: list[AbstractContextManager] = [
        step for _ in range(pairs) for step in (stopwatch(plain), stopwatch(mended, mended_linear()))
    ]
    warm_up: list[AbstractContextManager] = [nullcontext(), mended_linear()]
    views = [threads_clock(measured), python_profile(measured), op_by_op(measured)]
    instruments: list[AbstractContextManager] = [stopwatch(first), *warm_up, *in_turns, *views]
    watched = TokenByToken(instruments)
    watched()
    wanted = len(instruments)
    tokens = network.generate(mindtorch.tensor(features), max_new_tokens=wanted, logits_processor=[watched])
    newest = [int(token) for token in tokens[0]][-wanted:]
    return measured | {"tokens": newest, "first_token": first[0], "steps": {"as it is": plain, "mended": mended}}


@contextmanager
def stopwatch(times: list, change: AbstractContextManager | None = None) -> Iterator[None]:
    """Appends the seconds of what runs within it, under a change of the model, if one is given."""
    with change or nullcontext():
        start = time.perf_counter()
        yield
        times.append(time.perf_counter() - start)


@contextmanager
def threads_clock(measured: dict) -> Iterator[None]:
    """CPU seconds of each of this process's threads, by their name; Linux alone names them."""
    before = read_threads()
    yield
    spent = {name: seconds - before.get(name, 0.0) for name, seconds in read_threads().items()}
    measured["threads"] = dict(sorted(spent.items(), key=lambda item: -item[1]))


def read_threads() -> dict[str, float]:
    import psutil

    seconds: defaultdict[str, float] = defaultdict(float)
    for thread in psutil.Process().threads():
        comm = Path(f"/proc/self/task/{thread.id}/comm")
        seconds[comm.read_text().strip() if comm.exists() else "all"] += thread.user_time + thread.system_time
    return dict(seconds)


@contextmanager
def python_profile(measured: dict) -> Iterator[None]:
    """Rows for `make_table`: each Python function's own time on the main thread, waiting included."""
    profile = cProfile.Profile()
    profile.enable()
    yield
    profile.disable()
    functions = pstats.Stats(profile).stats.items()  # type: ignore[attr-defined]  # its stub lacks it
    measured["python"] = [
        (*name_function(file, name), calls, 1e3 * own, None) for (file, _, name), (_, calls, own, *_) in functions
    ]


def name_function(file: str, name: str) -> tuple[str, str]:
    """A function's name and package, without this machine's paths and addresses."""
    short = re.sub(r"^<(?:built-in method|method|function) '?([\w.]+).*>$", r"\1", name)
    _, installed, rest = file.rpartition("site-packages/")
    if installed:
        package, _, module = rest.partition("/")
        return f"{module}: {short}", package
    ours = "_c_expression" in name or "TensorPy" in name  # MindSpore's own, in C++
    return short, "mindspore" if ours else "Python"


@contextmanager
def op_by_op(measured: dict) -> Iterator[None]:
    """Rows for `make_table`: every op of mindtorch with a wait after it, so that its time is its own."""
    from mindtorch.dispatcher import Dispatcher

    dispatch, calls = Dispatcher.dispatch, defaultdict(list)

    def timed(self, name, *arguments, **options):
        start = time.perf_counter()
        result = dispatch(self, name, *arguments, **options)
        synchronise()
        calls[name].append(1e3 * (time.perf_counter() - start))
        return result

    with patch.object(Dispatcher, "dispatch", timed):
        yield
    measured["ops"] = [(name, op_kind(name), len(times), sum(times), max(times)) for name, times in calls.items()]


@contextmanager
def mended_linear() -> Iterator[None]:
    """mindtorch's linear layer as one matrix product that reads the weights as they lie.

    The op that it uses, Dense, turns the weights round by copying them, in every call, on MindSpore 2.7's CPU backend.
    """
    from mindtorch._apis import cpu

    def product(x, weight, bias=None):
        rows = cpu.legacy.mat_mul(cpu.reshape(x, (-1, x.shape[-1])), weight, False, True)
        out = cpu.reshape(rows, (*x.shape[:-1], weight.shape[0]))
        return out if bias is None else cpu.legacy.add(out, bias)

    with patch.object(cpu, "dense", product):
        yield
