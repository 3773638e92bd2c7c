"""Makes narration.flac and its card, 91 seconds (the length of article A's recording), out of a public-domain text.

Needs flite, a small free speech synthesiser (Debian and Ubuntu: `apt install flite`). Run it from the repository:

    .venv/bin/python data/audio/make_narration.py

The same flite gives the same samples every time; the card keeps their hash, so a second run shows whether anything
changed. The course itself never runs this: the clip is in the repository.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile

from labsupport.base.paths import AUDIO, atomic_write

VOICE = "slt"
SECONDS = (90.5, 91.5)  # the lengths that count as article A's 91 s

# Abraham Lincoln, second inaugural address, 4 March 1865: the first two paragraphs and three sentences of the third,
# one paragraph a line. The dash after "without war" is written as the comma that the voice makes of it.
TEXT = """\
At this second appearing to take the oath of the Presidential office there is less occasion for an extended address than there was at the first. Then a statement somewhat in detail of a course to be pursued seemed fitting and proper. Now, at the expiration of four years, during which public declarations have been constantly called forth on every point and phase of the great contest which still absorbs the attention and engrosses the energies of the nation, little that is new could be presented. The progress of our arms, upon which all else chiefly depends, is as well known to the public as to myself, and it is, I trust, reasonably satisfactory and encouraging to all. With high hope for the future, no prediction in regard to it is ventured.

On the occasion corresponding to this four years ago all thoughts were anxiously directed to an impending civil war. All dreaded it, all sought to avert it. While the inaugural address was being delivered from this place, devoted altogether to saving the Union without war, insurgent agents were in the city seeking to destroy it without war, seeking to dissolve the Union and divide effects by negotiation. Both parties deprecated war, but one of them would make war rather than let the nation survive, and the other would accept war rather than let it perish, and the war came.

Neither party expected for the war the magnitude or the duration which it has already attained. Neither anticipated that the cause of the conflict might cease with or even before the conflict itself should cease. Each looked for an easier triumph, and a result less fundamental and astounding.
"""  # noqa: E501


def find_version() -> str:
    """Gives flite's own name for its version, such as "flite-2.2-current Sep 2018"."""
    # flite prints its version and then exits with 1
    output = subprocess.run(["flite", "--version"], capture_output=True, text=True, check=False).stdout
    return re.search(r"version: (flite\S+ \w+ \d+)", output).group(1)


def speak(text: str) -> tuple[np.ndarray, int]:
    """Gives flite's int16 samples (samples,) and their rate in Hz."""
    with tempfile.TemporaryDirectory() as folder:
        script, wav = Path(folder, "text.txt"), Path(folder, "speech.wav")
        script.write_text(text, encoding="ascii")
        subprocess.run(["flite", "-voice", VOICE, "-f", script, "-o", wav], check=True)
        return soundfile.read(wav, dtype="int16")


def write_clip(samples: np.ndarray, rate: int, target: Path) -> None:
    with atomic_write(target) as part:
        soundfile.write(part, samples, rate, format="FLAC", subtype="PCM_16", compression_level=1.0)


def make_card(samples: np.ndarray, rate: int, clip: Path) -> str:
    """Gives the card as TOML; a JSON string is a TOML string too."""
    fields = {
        "name": clip.stem,
        "file": clip.name,
        "language": "en",
        "seconds": len(samples) / rate,
        "sample_rate": rate,
        "text": " ".join(TEXT.split()),
        "source": "Abraham Lincoln, second inaugural address, 4 March 1865: paragraphs one and two and three sentences "
        "of the third, spoken by a synthetic voice (data/audio/make_narration.py)",
        "licence": "Public domain text (1865, work of the US federal government); flite and its voices are free "
        "software of Carnegie Mellon University under a BSD-like licence that puts no condition on the sound they make",
        "generator": f"{find_version()}, voice {VOICE}",
        "samples_sha256": hashlib.sha256(samples.tobytes()).hexdigest(),
        "sha256": hashlib.sha256(clip.read_bytes()).hexdigest(),
    }
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in fields.items())


def main() -> None:
    if not shutil.which("flite"):
        sys.exit("flite is not installed; on Debian and Ubuntu: apt install flite")
    samples, rate = speak(TEXT)
    seconds = len(samples) / rate
    if rate != 16_000 or not SECONDS[0] <= seconds <= SECONDS[1]:
        sys.exit(f"flite gave {seconds:.2f} s at {rate} Hz; expected {SECONDS[0]} to {SECONDS[1]} s at 16000 Hz")
    clip = AUDIO / "narration.flac"
    write_clip(samples, rate, clip)
    with atomic_write(clip.with_suffix(".toml")) as part:
        part.write_text(make_card(samples, rate, clip), encoding="utf-8")
    print(f"{clip.name}: {seconds:.2f} s, {clip.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
