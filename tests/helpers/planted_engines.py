"""Engines for a race that know their text beforehand, or that skip work; entrants' processes import them."""

from __future__ import annotations

import os
import time

from labsupport.engine.race.entrants import Entrant
from labsupport.engine.race.ours import open_ours
from labsupport.engine.race.running import Answer, Running


def open_planted(folder, threads, multilingual, texts, seconds=0.01, fails_at=0, code=0):
    """Gives `texts` after so many seconds; fails at its n-th transcription, by an exception or an exit `code`."""
    runs = []

    def transcribe(clips):
        runs.append(len(clips))
        time.sleep(seconds)
        if len(runs) == fails_at:
            if code:
                os._exit(code)
            raise ValueError("planted: no more")
        return Answer(list(texts), sum(len(text) for text in texts))

    return Running(transcribe)


def open_broken(folder, threads, multilingual):
    raise ImportError("planted: no such library")


def open_skipping(folder, threads, multilingual, name, skip):
    """Ours, but it leaves out the last part of every clip."""
    honest = open_ours(folder, threads, multilingual, name, "onnx")
    return Running(lambda clips: honest.transcribe([clip[: int(len(clip) * (1 - skip))] for clip in clips]))


def planted(name, texts=(), opener="open_planted", **settings):
    given = {"texts": list(texts), **settings} if opener == "open_planted" else settings
    return Entrant(name, f"planted_engines:{opener}", settings=given)
