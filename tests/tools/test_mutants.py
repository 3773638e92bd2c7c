"""The planted faults: each still fits its file, and a fault that no test finds is reported."""

from __future__ import annotations

from dataclasses import replace

import mutants
import pytest

from labsupport.base.paths import ROOT


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_still_fits_and_names_tests_that_exist(mutant):
    text = (ROOT / "labsupport" / mutant.file).read_text(encoding="utf-8")
    assert mutants.change(text, mutant) != text
    assert (ROOT / mutant.tests).is_file()


def test_a_mutant_whose_line_has_gone_is_an_error():
    with pytest.raises(ValueError, match="stands 0 times"):
        mutants.change("another text", mutants.MUTANTS[0])


@pytest.mark.slow
def test_a_found_and_a_missed_fault_are_told_apart(monkeypatch, capsys):
    found = next(mutant for mutant in mutants.MUTANTS if mutant.file == "whisper/token_filters.py")
    missed = replace(found, name="harmless", wrong=f"{found.right}  # no fault")
    monkeypatch.setattr(mutants, "MUTANTS", (found, missed))
    assert mutants.main([]) == 1
    output = capsys.readouterr().out
    assert f"found    {found.name}" in output
    assert "MISSED   harmless" in output
    assert "1 of 2 faults found" in output
