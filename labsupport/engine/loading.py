"""Loads a Whisper on the fast engine, ready to transcribe."""

from __future__ import annotations

from labsupport.checkpoints.resolve import DEFAULT_MODEL, find_checkpoint
from labsupport.engine.runtime import require_openvino
from labsupport.speech.text import Tokenizer
from labsupport.whisper.loading import make_transcriber
from labsupport.whisper.transcribe import Transcriber


def load(name: str | None = None) -> Transcriber:
    """Loads a model on OpenVINO; its graphs are compiled on first use, and no framework is imported.

    Raises:
        CheckpointError: no such model, or it is damaged.
        NotAvailable: OpenVINO is not installed.
    """
    require_openvino()
    from labsupport.engine.model import Whisper
    from labsupport.engine.store import find_compiled, open_graphs

    checkpoint = find_checkpoint(name or DEFAULT_MODEL)
    model = Whisper(checkpoint.config, open_graphs(find_compiled(checkpoint)))
    return make_transcriber(checkpoint, model, Tokenizer(checkpoint.folder))
