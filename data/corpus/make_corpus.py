"""Makes train.ogg, held_out.ogg and their card, corpus.toml, out of sentences.toml: each sentence spoken by flite.

Needs flite, a small free speech synthesiser (Debian and Ubuntu: `apt install flite`). Run it from the repository:

    .venv/bin/python data/corpus/make_corpus.py

The same flite gives the same samples every time; the card keeps their hash, so a second run shows whether anything
changed. The files themselves differ in the serial number that every Ogg stream draws. The course itself never runs
this: the recordings are in the repository.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile

from labsupport.base.paths import atomic_write, read_toml
from labsupport.speech import audio
from labsupport.speech.corpus import CORPUS, SPLITS

VOICES = ("slt", "rms", "awb")  # they take turns
PAUSE = 0.3  # s of silence after each sentence
COMPRESSION = 0.92  # libsndfile's scale from 0 to 1; here 26 kbit/s, which changes the log-mel by 0.03 on average
COMMAND = ".venv/bin/python data/corpus/make_corpus.py (a sentence: flite -voice VOICE -t SENTENCE -o speech.wav)"

Placed = list[tuple[float, float]]  # start and end in seconds of each sentence


def find_problem() -> str | None:
    """What is missing on this machine; None if nothing is."""
    if not shutil.which("flite"):
        return "flite is not installed; on Debian and Ubuntu: apt install flite"
    # flite takes another voice, without a message, where it lacks the one asked for
    listed = subprocess.run(["flite", "-lv"], capture_output=True, text=True, check=True).stdout.split()
    missing = [voice for voice in VOICES if voice not in listed]
    return f"this flite has no voice {', '.join(missing)}; Debian's and Ubuntu's has them all" if missing else None


def find_version() -> str:
    """Gives flite's own name for its version, such as "flite-2.2-current Sep 2018"."""
    # flite prints its version and then exits with 1
    output = subprocess.run(["flite", "--version"], capture_output=True, text=True, check=False).stdout
    return re.search(r"version: (flite\S+ \w+ \d+)", output).group(1)


def respell(text: str, spoken: dict[str, str]) -> str:
    """Replaces the words that flite mispronounces; `spoken` has them in lower case."""
    return re.sub(r"\w+", lambda word: spoken.get(word[0].lower(), word[0]), text)


def speak(text: str, voice: str) -> np.ndarray:
    """Gives float32 samples (samples,), mono, 16 kHz, whatever the voice's own rate."""
    with tempfile.TemporaryDirectory() as folder:
        wav = Path(folder, "speech.wav")
        subprocess.run(["flite", "-voice", voice, "-t", text, "-o", wav], check=True)
        return audio.read(wav)


def join(sentences: list[np.ndarray]) -> tuple[np.ndarray, Placed]:
    """Joins the sentences, each followed by a pause; also gives the start and end of each."""
    pause = np.zeros(round(PAUSE * audio.SAMPLE_RATE), np.float32)
    ends = np.cumsum([len(each) + len(pause) for each in sentences]) - len(pause)
    starts = [end - len(each) for end, each in zip(ends, sentences, strict=True)]
    seconds = [(start / audio.SAMPLE_RATE, end / audio.SAMPLE_RATE) for start, end in zip(starts, ends, strict=True)]
    return np.concatenate([part for each in sentences for part in (each, pause)]), seconds


def write_recording(samples: np.ndarray, target: Path) -> None:
    # Opus: at this size it is nearer to the original than Vorbis
    with atomic_write(target) as part:
        soundfile.write(part, samples, audio.SAMPLE_RATE, format="OGG", subtype="OPUS", compression_level=COMPRESSION)


def describe_corpus() -> dict:
    return {
        "name": "corpus",
        "language": "en",
        "sample_rate": audio.SAMPLE_RATE,
        "source": "Sentences written for this course (data/corpus/sentences.toml), spoken by synthetic voices "
        "(data/corpus/make_corpus.py)",
        "licence": "Text and recordings: CC-BY-4.0, as all text of this course; flite and its voices are free "
        "software of Carnegie Mellon University under a BSD-like licence that puts no condition on the sound they make",
        "voices": "slt and rms (US English) and awb (Scottish English), made at Carnegie Mellon University from the "
        "CMU Arctic recordings of these speakers",
        "generator": find_version(),
        "command": COMMAND,
    }


def describe_recording(samples: np.ndarray, file: Path) -> dict:
    return {
        "file": file.name,
        "seconds": len(samples) / audio.SAMPLE_RATE,
        "samples_sha256": hashlib.sha256(samples.tobytes()).hexdigest(),
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
    }


def write_toml(fields: dict) -> str:
    """A JSON string or number is a TOML one too."""
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in fields.items())


def make_split(split: str, texts: list[str], spoken: dict[str, str]) -> tuple[str, str]:
    """Writes the recording of a split; gives the card's table of it and those of its sentences."""
    voices = list(itertools.islice(itertools.cycle(VOICES), len(texts)))
    samples, places = join([speak(respell(text, spoken), voice) for text, voice in zip(texts, voices, strict=True)])
    file = CORPUS / f"{split}.ogg"
    write_recording(samples, file)
    print(f"{file.name}: {len(samples) / audio.SAMPLE_RATE:.2f} s, {file.stat().st_size / 1e6:.2f} MB")
    tables = []
    for text, voice, (start, end) in zip(texts, voices, places, strict=True):
        # a millisecond is near enough: flite begins and ends with silence
        fields = {"split": split, "voice": voice, "start": round(start, 3), "end": round(end, 3), "text": text}
        tables.append(f"\n[[sentences]]\n{write_toml(fields)}")
    return f"\n[{split}]\n{write_toml(describe_recording(samples, file))}", "".join(tables)


def main() -> None:
    if problem := find_problem():
        sys.exit(problem)
    script = read_toml(CORPUS / "sentences.toml")
    recordings, sentences = zip(*(make_split(split, script[split], script["spoken"]) for split in SPLITS), strict=True)
    with atomic_write(CORPUS / "corpus.toml") as part:
        part.write_text(write_toml(describe_corpus()) + "".join(recordings + sentences), encoding="utf-8")


if __name__ == "__main__":
    main()
