"""What the service allows, and where it may be reached."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from labsupport.base.errors import ServingError

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True)
class Settings:
    """Limits and sizes. Times are in seconds, sizes in bytes.

    batch: windows of 30 s that the model is given at once, of as many requests as possible.
    active: requests whose sound is read and whose windows wait for the model; the others wait with their file alone.
    queue: requests beyond those, uploads included; one more is told to come back later.
    beams: of the search; 1 is greedy.
    request_seconds: from a request's acceptance to its answer.
    audio_seconds, channels: of a recording.
    upload_bytes: of a request's body; spool_bytes: of all uploads that are stored at once.
    field_bytes: of a form field that is no file.
    idle_seconds: that an upload may pause; grace_seconds, upload_rate: it may take the first, and a second more for
        each `upload_rate` bytes.
    header_seconds, header_bytes: that a request's head may take.
    linger_seconds: for which the rest of a refused upload is still taken off the wire, so that the answer arrives.
    """

    batch: int = 8
    active: int = 8
    queue: int = 32
    beams: int = 1
    request_seconds: float = 600.0
    audio_seconds: float = 7200.0
    channels: int = 64
    upload_bytes: int = 256 * 2**20
    spool_bytes: int = 2 * 2**30
    field_bytes: int = 2**16
    idle_seconds: float = 10.0
    grace_seconds: float = 15.0
    upload_rate: int = 16_000
    header_seconds: float = 10.0
    header_bytes: int = 2**15
    linger_seconds: float = 3.0


DEFAULTS = Settings()


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that is bound to the host."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def check_binding(host: str, has_tokens: bool, insecure: bool) -> None:
    """Raises ServingError for a host that others can reach, without a token that they must have, unless told."""
    if is_loopback(host) or has_tokens or insecure:
        return
    hint = "Give --token-file, or LAB_SERVE_TOKEN in the environment; --insecure lets everybody in."
    raise ServingError(f"On {host} everybody who reaches this machine could use the service.", hint=hint)
