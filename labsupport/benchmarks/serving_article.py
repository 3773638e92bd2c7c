"""Article C's service in its own shape, mended so that it runs: FastAPI and a pipeline, one request after the other.

    python -m labsupport.benchmarks.serving_article MODEL

Mended are the upload, which was no upload; the sound, which lost its header and its channels; and the server, which was
never started. The first line that it prints is its address.
"""

from __future__ import annotations

import io
import socket
import sys
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, File

from labsupport.speech import audio


def create_app(write_down: Callable[[np.ndarray], str]) -> FastAPI:
    """write_down: (samples,) float32 at 16 kHz -> text; called on the server's event loop, as the article does."""
    app = FastAPI()

    @app.post("/transcribe")
    async def transcribe(file: Annotated[bytes, File()]) -> dict:
        return {"text": write_down(audio.read(io.BytesIO(file)))}

    return app


def load_pipeline(model: str) -> Callable[[np.ndarray], str]:
    """transformers' pipeline on windows of 30 s, on the GPU where there is one."""
    import torch
    import transformers

    from labsupport.checkpoints.resolve import find_checkpoint

    transformers.logging.set_verbosity_error()
    device = 0 if torch.cuda.is_available() else "cpu"
    folder = str(find_checkpoint(model).folder)
    pipe: Any = transformers.pipeline("automatic-speech-recognition", model=folder, device=device, chunk_length_s=30)
    return lambda samples: pipe({"raw": samples, "sampling_rate": 16_000})["text"].strip()


def main(model: str) -> None:
    import uvicorn

    bound = socket.create_server(("127.0.0.1", 0))  # a port that is free
    server = uvicorn.Server(uvicorn.Config(create_app(load_pipeline(model)), log_level="error"))
    print(f"http://127.0.0.1:{bound.getsockname()[1]}", flush=True)
    server.run([bound])


if __name__ == "__main__":
    main(*sys.argv[1:])
