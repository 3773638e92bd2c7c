"""Who takes part: names are unique, what they name exists, and they are found by their beginnings."""

from __future__ import annotations

import importlib
import inspect

import pytest

from labsupport.base.errors import EngineError
from labsupport.engine.race import conversions
from labsupport.engine.race.entrants import ENTRANTS, Entrant, choose
from labsupport.engine.race.ggml import FILE_TYPES


def test_names_are_unique_and_everyone_of_the_issue_is_there():
    names = [each.name for each in ENTRANTS]
    assert len(set(names)) == len(names)
    for peer in ("transformers", "openai-whisper", "faster-whisper", "whisper.cpp", "optimum", "openvino", "sherpa"):
        assert any(name.startswith(peer) for name in names)
    assert sum(each.is_ours for each in ENTRANTS) >= 4
    assert not ENTRANTS[0].is_ours  # it is the reference


@pytest.mark.parametrize("entrant", ENTRANTS, ids=lambda each: each.name)
def test_its_opener_takes_its_settings_and_its_form_can_be_made(entrant):
    module, function = entrant.opener.split(":")
    opener = getattr(importlib.import_module(module), function)
    extra = {"name": "tiny.en"} if entrant.is_ours else {}
    inspect.signature(opener).bind("folder", 2, True, **entrant.settings, **extra)
    own = {None, "ctranslate2", "openai", *(f"ggml-{kind}" for kind in FILE_TYPES)}
    assert entrant.form in own | set(conversions.EXPORTS)
    assert entrant.home == "race" or entrant.form not in conversions.EXPORTS


def test_they_are_chosen_by_names_or_beginnings():
    known = [Entrant("a", "x:y"), Entrant("a, batch 4", "x:y"), Entrant("b", "x:y"), Entrant("b int8", "x:y")]
    assert choose(None, known) == known
    assert [each.name for each in choose("a", known)] == ["a"]  # a whole name means one alone
    assert [each.name for each in choose("b i; a, ; b", known)] == ["b int8", "a, batch 4", "b"]
    with pytest.raises(EngineError, match="'c'") as error:
        choose("a;c", known)
    assert "b int8" in error.value.hint
    with pytest.raises(EngineError):
        choose("a;", known)
