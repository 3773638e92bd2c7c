"""Which addresses others can reach, and that they need a token there."""

from __future__ import annotations

import pytest

from labsupport.base.errors import ServingError
from labsupport.serving.settings import check_binding, is_loopback


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost", "LocalHost"])
def test_this_machine_alone(host):
    assert is_loopback(host)
    check_binding(host, has_tokens=False, insecure=False)


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "", "10.0.0.1", "speech.example", "localhost.example", "127.0.0.1.x.io"]
)
def test_others_reach_it(host):
    assert not is_loopback(host)
    with pytest.raises(ServingError, match="everybody"):
        check_binding(host, has_tokens=False, insecure=False)
    check_binding(host, has_tokens=True, insecure=False)
    check_binding(host, has_tokens=False, insecure=True)
