"""Where weights come from, and the shape of every Whisper."""
