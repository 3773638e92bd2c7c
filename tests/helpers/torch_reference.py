"""What torch gives, for a process that must not load it: `python torch_reference.py OUT.npz` writes it down."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

TEXT = [50257, 50362, 843, 11, 616, 5891, 3399]
MODELS = ("tiny.en", "base")


def references(name: str) -> dict[str, np.ndarray]:
    """transformers' encoder output, logits and cross-attention in float64, how far its own float32 encoder lies from
    that; and our torch model's transcripts, as JSON.
    """
    import torch
    from transformers import WhisperForConditionalGeneration

    from labsupport import whisper
    from labsupport.checkpoints.resolve import find_checkpoint
    from labsupport.speech import audio, features

    jfk, narration = (audio.read(audio.clip(clip).path) for clip in ("jfk", "narration"))
    theirs = WhisperForConditionalGeneration.from_pretrained(find_checkpoint(name).folder).eval()
    mel = torch.from_numpy(features.log_mel(jfk))[None]
    with torch.inference_mode():
        theirs.set_attn_implementation("eager")  # as the twin computes it
        single = theirs.model.encoder(mel).last_hidden_state
        exact = theirs.double().model.encoder(mel.double()).last_hidden_state
        out = theirs(mel.double(), decoder_input_ids=torch.tensor([TEXT]), output_attentions=True)
    ours = whisper.load(name, backend="torch")
    texts = {"jfk": ours.transcribe(jfk)}
    if name == "tiny.en":
        texts |= {"jfk, 2 beams": ours.transcribe(jfk, beams=2), "40 s": ours.transcribe(narration[: 40 * 16_000])}
    plain = {label: [[s.start, s.end, s.text] for s in text.segments] for label, text in texts.items()}
    return {
        f"{name} encoded": exact.numpy(),
        f"{name} float32 error": (single - exact).abs().max().numpy(),
        f"{name} logits": out.logits.numpy(),
        f"{name} cross-attention": torch.cat(out.cross_attentions).numpy(),  # (layers, heads, length, 1500)
        f"{name} texts": np.array(json.dumps(plain)),
    }


if __name__ == "__main__":
    np.savez(Path(sys.argv[1]), **{key: value for name in MODELS for key, value in references(name).items()})
