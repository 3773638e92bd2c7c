"""Bark, text to speech: what the course needs beyond transformers."""
