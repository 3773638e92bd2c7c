"""Options of whisper's command line (openai-whisper 20250625) that `lab transcribe` lacks, and what to do instead."""

from __future__ import annotations

LINES = "Subtitles have a segment in a cue; a subtitle editor breaks their lines (-f srt or vtt)."
SEARCH = "Beams are ranked by their mean log-probability. Leave it out."
ATTACHED = "Punctuation is joined to its word by Unicode's categories. Leave it out."

INSTEAD = {
    "--append-punctuations": ATTACHED,
    "--carry-initial-prompt": "Give --hotwords, which every window gets.",
    "--clip-timestamps": "Cut the part out first: ffmpeg -ss START -to END -i FILE part.wav",
    "--compute-type": "The lab computes in float32. Leave it out.",
    "--device": "The model runs on a GPU where torch finds one, else on the CPU; CUDA_VISIBLE_DEVICES= hides the GPU.",
    "--fp16": "The lab computes in float32. Leave it out, or write --fp16 False.",
    "--hallucination-silence-threshold": "--vad, which is on by default, leaves silence out.",
    "--highlight-words": "-f vtt --word-timestamps gives the time of each word.",
    "--length-penalty": SEARCH,
    "--max-line-count": LINES,
    "--max-line-width": LINES,
    "--max-words-per-line": LINES,
    "--model-dir": "--model takes a folder; models of the hub lie where HF_HOME says.",
    "--patience": SEARCH,
    "--prepend-punctuations": ATTACHED,
    "--suppress-tokens": "The tokens that the checkpoint's own settings name are suppressed. Leave it out.",
    "--temperature-increment-on-fallback": "Give all temperatures: --temperature 0,0.2,0.4,0.6,0.8,1",
    "--verbose": "Text goes to standard output, with times by --timestamps; 2>/dev/null hides the rest.",
}
