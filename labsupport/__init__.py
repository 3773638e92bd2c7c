"""What the notebooks of the Speech Inference Lab share: see README.md for the map."""

__version__ = "0.1.0"
