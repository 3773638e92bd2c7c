"""Errors tell what was wrong, where, and what to do next; a room has one class."""

from __future__ import annotations

import pickle

from labsupport.base import errors
from labsupport.base.errors import AudioError, LabError


def test_a_message_has_a_line_for_each_part_that_is_known():
    assert str(AudioError("It is empty.", where="a.wav", hint="Record it.")) == (
        "It is empty.\n  where: a.wav\n  next:  Record it."
    )
    assert str(AudioError("It is empty.")) == "It is empty."
    assert "where: 0" in str(AudioError("Too few.", where=0))


def test_an_error_survives_another_process():
    error = pickle.loads(pickle.dumps(AudioError("It is empty.", where="a.wav")))
    assert (error.what, error.where) == ("It is empty.", "a.wav")


def test_every_error_is_the_labs_and_documented():
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    assert all(issubclass(error, LabError) and error.__doc__ for error in classes)
