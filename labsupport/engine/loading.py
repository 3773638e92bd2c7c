"""Loads a Whisper on any engine, the fast one among them, ready to transcribe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from labsupport import whisper
from labsupport.base.errors import WhisperError
from labsupport.checkpoints.resolve import DEFAULT_MODEL, find_checkpoint
from labsupport.engine.rounding import FAST, Rounding
from labsupport.engine.runtime import require_openvino
from labsupport.speech.text import Tokenizer
from labsupport.whisper import Transcriber
from labsupport.whisper.loading import make_transcriber

AUTO = "auto"


def load(name: str | None = None, backend: str | None = None, engine: str | None = None, **options) -> Transcriber:
    """As `whisper.load`, but for the engine "fast", see `load_fast`."""
    if engine != "fast":
        return whisper.load(name, backend=backend, engine=engine, **options)
    if backend or options:
        what = "The fast engine runs its own graphs, on the CPU: it takes no backend and no other option."
        raise WhisperError(what, hint="Leave them out.")
    return load_fast(name)


def load_for_command(
    name: str | None, backend: str | None, engine: str, report: Callable[[str], None] = lambda text: None
) -> Transcriber:
    """As `load`, for a command's options: the engine "auto" is chosen by `choosing`, unless a backend is named.

    Args:
        report: takes why that engine was chosen.
    """
    if engine != AUTO or backend:
        return load(name, backend=backend, engine=None if engine == AUTO else engine)
    from labsupport.engine.choosing import choose

    choice = choose(name or DEFAULT_MODEL)
    report(str(choice))
    return load(name, engine=choice.engine)


def load_fast(name: str | None = None, rounding: Rounding = FAST) -> Transcriber:
    """Loads a model on OpenVINO; its graphs are compiled on first use, and no framework is imported.

    Args:
        rounding: what is rounded; less than in `FAST` is for comparison.

    Raises:
        CheckpointError: no such model, or it is damaged.
        NotAvailable: OpenVINO is not installed.
    """
    require_openvino()
    from labsupport.engine.model import Whisper
    from labsupport.engine.store import find_compiled, open_graphs

    checkpoint = find_checkpoint(name or DEFAULT_MODEL)
    model = Whisper(checkpoint.config, open_graphs(find_compiled(checkpoint, rounding), rounding))
    return replace(make_transcriber(checkpoint, model, Tokenizer(checkpoint.folder)), short_context=True)
