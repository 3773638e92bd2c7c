"""A Whisper with random weights, so small that its graphs are built in a moment."""

from labsupport.checkpoints.config import Config
from labsupport.checkpoints.resolve import Checkpoint

SMALL = Checkpoint(
    "small-enough",
    None,
    Config(
        d_model=16, encoder_layers=1, decoder_layers=2, heads=2, vocab_size=99, audio_positions=30, text_positions=24
    ),
    random=True,
)
