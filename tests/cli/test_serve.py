"""`lab serve`: the limits that it passes on."""

import pytest
from lab_command import invoke


def test_serve_passes_its_limits_on(monkeypatch):
    from labsupport.serving import server

    given = {}

    def serve(load, host, port, settings, tokens):
        given.update(host=host, port=port, settings=settings, tokens=bool(tokens))

    monkeypatch.setattr(server, "serve", serve)
    monkeypatch.setenv("LAB_SERVE_TOKEN", "a-token-of-some-length")
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")  # else the command sets it, for all tests after this one
    done = invoke("serve", "--host", "0.0.0.0", "--port", 9, "--batch", 4, "--queue", 3, "--timeout", 7, "--beams", 2,
                  "--max-minutes", 2, "--max-megabytes", 1)  # fmt: skip
    assert done.exit_code == 0, done.output
    assert (given["host"], given["port"], given["tokens"]) == ("0.0.0.0", 9, True)
    settings = given["settings"]
    assert (settings.batch, settings.queue, settings.beams, settings.request_seconds) == (4, 3, 2, 7.0)
    assert (settings.audio_seconds, settings.upload_bytes) == (120.0, 2**20)
    assert settings.spool_bytes >= settings.upload_bytes


@pytest.mark.parametrize(
    "arguments",
    [["--port", "70000"], ["--timeout", "nan"], ["--batch", "0"], ["--max-minutes", "inf"], ["--engine", "x"]],
)
def test_serve_refuses_what_is_no_limit(arguments):
    assert invoke("serve", *arguments).exit_code == 2
