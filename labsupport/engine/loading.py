"""Loads a Whisper on any engine, the fast one among them, ready to transcribe."""

from __future__ import annotations

from dataclasses import replace

from labsupport import whisper
from labsupport.base.errors import WhisperError
from labsupport.checkpoints.resolve import DEFAULT_MODEL, find_checkpoint
from labsupport.engine.rounding import FAST, Rounding
from labsupport.engine.runtime import require_openvino
from labsupport.speech.text import Tokenizer
from labsupport.whisper import Transcriber
from labsupport.whisper.loading import make_transcriber
from labsupport.whisper.windows import shortest_context


def load(name: str | None = None, backend: str | None = None, engine: str | None = None, **options) -> Transcriber:
    """As `whisper.load`, but for the engine "fast", see `load_fast`."""
    if engine != "fast":
        return whisper.load(name, backend=backend, engine=engine, **options)
    if backend or options:
        what = "The fast engine runs its own graphs, on the CPU: it takes no backend and no other option."
        raise WhisperError(what, hint="Leave them out.")
    return load_fast(name)


def load_fast(name: str | None = None, rounding: Rounding = FAST, short_context: bool = True) -> Transcriber:
    """Loads a model on OpenVINO; its graphs are compiled on first use, and no framework is imported.

    Args:
        rounding: what is rounded; less than in `FAST` is for comparison.
        short_context: with the one that suits the model, see `windows.shortest_context`; off is for comparison.

    Raises:
        CheckpointError: no such model, or it is damaged.
        NotAvailable: OpenVINO is not installed.
    """
    require_openvino()
    from labsupport.engine.model import Whisper
    from labsupport.engine.store import find_compiled, open_graphs

    checkpoint = find_checkpoint(name or DEFAULT_MODEL)
    model = Whisper(checkpoint.config, open_graphs(find_compiled(checkpoint, rounding), rounding))
    shortest = shortest_context(checkpoint.config) if short_context else 0
    return replace(make_transcriber(checkpoint, model, Tokenizer(checkpoint.folder)), short_context=shortest)
