"""Sound and text: reading audio, the corpus, log-mel features, transcripts."""
