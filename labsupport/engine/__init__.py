"""The fast engine: the course's optimisations in one Whisper, and the race against the engines that people use."""
