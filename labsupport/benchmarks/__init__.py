"""Long measurements, each run by `./lab bench NAME`."""
