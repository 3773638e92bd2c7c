"""One small Bark with each kind of attention, and its output for two texts, for all tests of this room."""

from __future__ import annotations

import pytest
import transformers
from small_bark import LENGTH, TEXTS, TINY, load_small, tiny_shape  # noqa: F401 (tiny_shape is a fixture)

from labsupport.bark.generator import BarkGenerator
from labsupport.bark.tokens import encode_text


@pytest.fixture(scope="module", autouse=True)
def silent_library():
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()  # of an attention mask that Bark does not need
    yield
    transformers.logging.set_verbosity(before)


@pytest.fixture(scope="session")
def eager(tiny_shape):  # noqa: F811
    return load_small("eager")


@pytest.fixture(scope="session")
def fused(tiny_shape):  # noqa: F811
    return load_small("sdpa")


@pytest.fixture(scope="session")
def tokens(tiny_shape):  # noqa: F811
    return encode_text(TEXTS, TINY)


@pytest.fixture(scope="session")
def expected(eager, tokens):
    """The output of the generator without any of the tricks."""
    return BarkGenerator(eager).generate(*tokens, LENGTH)
