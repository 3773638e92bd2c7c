"""Makes word_times.json: when each word of the narration and of the held-out sentences is said, in seconds.

Needs flite's libraries (Debian and Ubuntu: `apt install libflite1`). Run it from the repository:

    .venv/bin/python tests/helpers/make_word_times.py

flite is the synthesiser that spoke these recordings, and gives the same samples every time: the narration's are held
against their hash, those of the sentences against their length, for their recording is compressed.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import re
import sys
from ctypes import POINTER, Structure, c_char_p, c_float, c_int, c_short, c_void_p
from pathlib import Path

import numpy as np

from labsupport.base.paths import AUDIO, DATA, read_toml

TARGET = Path(__file__).with_name("word_times.json")
FUNCTIONS = {
    "flite_synth_text": (c_void_p, c_char_p, c_void_p),
    "utt_relation": (c_void_p, c_void_p, c_char_p),
    "relation_head": (c_void_p, c_void_p),
    "item_next": (c_void_p, c_void_p),
    "item_feat_float": (c_float, c_void_p, c_char_p),
    "path_to_item": (c_void_p, c_void_p, c_char_p),
    "utt_wave": (c_void_p, c_void_p),
}
Times = list[tuple[float, float]]


class Wave(Structure):
    _fields_ = (
        ("type", c_char_p),
        ("rate", c_int),
        ("count", c_int),
        ("channels", c_int),
        ("samples", POINTER(c_short)),
    )


class Flite:
    """flite's library, in which every phoneme of an utterance knows its end and its token of the text."""

    def __init__(self) -> None:
        names = ("flite", "flite_usenglish", "flite_cmulex")
        self.library, *_ = (ctypes.CDLL(f"lib{name}.so.1", ctypes.RTLD_GLOBAL) for name in names)
        for name, (result, *arguments) in FUNCTIONS.items():
            function = getattr(self.library, name)
            function.restype, function.argtypes = result, arguments
        self.library.flite_init()

    def speak(self, text: str, voice: str) -> tuple[Times, np.ndarray, int]:
        """Start and end of each token of the text (its parts between spaces); the int16 samples and their rate."""
        register = getattr(ctypes.CDLL(f"libflite_cmu_us_{voice}.so.1"), f"register_cmu_us_{voice}")
        register.restype = c_void_p
        utterance = self.library.flite_synth_text(text.encode(), register(None))
        wave = ctypes.cast(self.library.utt_wave(utterance), POINTER(Wave)).contents
        return self.find_tokens(utterance), np.ctypeslib.as_array(wave.samples, (wave.count,)).copy(), wave.rate

    def find_tokens(self, utterance: int) -> Times:
        times: dict[int, tuple[float, float]] = {}
        start, phoneme = 0.0, self.library.relation_head(self.library.utt_relation(utterance, b"Segment"))
        while phoneme:
            end = self.library.item_feat_float(phoneme, b"end")
            token = self.library.path_to_item(phoneme, b"R:SylStructure.parent.parent.R:Token.parent")
            if token:  # a pause has none
                times[token] = (times.get(token, (start, end))[0], end)
            start, phoneme = end, self.library.item_next(phoneme)
        return list(times.values())


def time_narration(flite: Flite) -> list:
    card, samples, offset, found = read_toml(AUDIO / "narration.toml"), [], 0.0, []
    for sentence in re.split(r"(?<=[.]) ", card["text"]):  # flite speaks a file sentence by sentence
        times, sound, rate = flite.speak(sentence, "slt")
        found += place(sentence.split(), times, offset)
        samples.append(sound)
        offset += len(sound) / rate
    if hashlib.sha256(np.concatenate(samples).tobytes()).hexdigest() != card["samples_sha256"]:
        sys.exit("This flite speaks the narration otherwise than the one that made it.")
    return found


def time_sentences(flite: Flite) -> list[list]:
    """Of each held-out sentence, from its own beginning."""
    spoken, found = read_toml(DATA / "corpus" / "sentences.toml")["spoken"], []
    for entry in read_toml(DATA / "corpus" / "corpus.toml")["sentences"]:
        if entry["split"] != "held_out":
            continue
        parts = [re.sub(r"\w+", lambda m: spoken.get(m[0].lower(), m[0]), part) for part in entry["text"].split()]
        times, samples, rate = flite.speak(" ".join(parts), entry["voice"])
        if abs(len(samples) / rate - (entry["end"] - entry["start"])) > 0.002:
            sys.exit(f"This flite speaks otherwise than the one that made the corpus: {entry['text']}")
        ends = np.cumsum([len(part.split()) for part in parts])  # a respelled word may be several of flite's
        starts = [0, *ends[:-1]]
        joined = [(times[a][0], times[b - 1][1]) for a, b in zip(starts, ends, strict=True)]
        found.append(place(entry["text"].split(), joined, 0.0))
    return found


def place(parts: list[str], times: Times, offset: float) -> list:
    return [
        [part, round(offset + start, 4), round(offset + end, 4)]
        for part, (start, end) in zip(parts, times, strict=True)
    ]


def main() -> None:
    flite = Flite()
    content = {"narration": time_narration(flite), "held_out": time_sentences(flite)}
    lines = json.dumps(content).replace("]], ", "]],\n").replace("], [", "],\n[")
    TARGET.write_text(lines + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
