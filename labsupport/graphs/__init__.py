"""Whisper's ONNX graphs: built, rewritten, stored, run."""
