"""The race: ours beside the engines that people use, on the same sound, weights, threads and machine, in one run."""
