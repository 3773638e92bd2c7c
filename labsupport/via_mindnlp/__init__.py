"""transformers' Whisper and Bark on MindSpore, run by MindNLP."""
