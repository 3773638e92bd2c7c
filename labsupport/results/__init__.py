"""What was measured: timing, memory, rows, claims and verdicts."""
