"""`lab serve`: speech to text over HTTP."""

from __future__ import annotations

from typing import Annotated

import typer

from labsupport.cli.options import Engine, Why, check_finite
from labsupport.cli.printing import reporter


def serve(
    host: Annotated[str, typer.Option(help="the address to answer on; by default this machine alone")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free")] = 8000,
    model: Annotated[str | None, typer.Option(help="a packaged name, a folder or a hub id")] = None,
    engine: Engine = "auto",
    why: Why = False,
    threads: Annotated[int, typer.Option(metavar="N", min=0, max=4096, help="CPU threads; 0: by the machine")] = 0,
    beams: Annotated[int, typer.Option(metavar="N", min=1, max=100, help="1 is greedy: quicker, less exact")] = 1,
    batch: Annotated[int, typer.Option(metavar="N", min=1, max=256, help="windows of 30 s at once")] = 8,
    queue: Annotated[int, typer.Option(metavar="N", min=0, max=10_000, help="requests that wait; more get 429")] = 32,
    timeout: Annotated[
        float, typer.Option(metavar="S", min=1, callback=check_finite, help="seconds that a request may take")
    ] = 600,
    max_minutes: Annotated[
        float, typer.Option(metavar="N", min=0.01, callback=check_finite, help="of sound in a request")
    ] = 120,
    max_megabytes: Annotated[
        float, typer.Option(metavar="N", min=0.001, callback=check_finite, help="of a request")
    ] = 256,
    token_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="bearer tokens, one a line; or LAB_SERVE_TOKEN holds one")
    ] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="let others in without a token")] = False,
) -> None:
    """Serve speech to text over HTTP, in the form of OpenAI's API. SIGTERM and Ctrl-C end it after what it accepted.

    Its texts are those of `lab transcribe` with the same beams, and with a batch of more than 1.
    """
    from labsupport.engine.choosing import load_for_command
    from labsupport.machine.backend import let_threads_sleep, use_threads
    from labsupport.results.memory import take_fresh_blocks
    from labsupport.serving import server
    from labsupport.serving.auth import read_tokens
    from labsupport.serving.settings import Settings, check_binding

    tokens = read_tokens(token_file)
    check_binding(host, bool(tokens), insecure)
    take_fresh_blocks()  # for it lives long, and sounds of all lengths come
    let_threads_sleep()
    if threads:
        use_threads(threads)
    settings = Settings(
        batch=batch, active=batch, queue=queue, beams=beams, request_seconds=timeout, audio_seconds=max_minutes * 60,
        upload_bytes=round(max_megabytes * 2**20), spool_bytes=8 * round(max_megabytes * 2**20),
    )  # fmt: skip
    server.serve(lambda: load_for_command(model, None, engine, reporter(why)), host, port, settings, tokens)
