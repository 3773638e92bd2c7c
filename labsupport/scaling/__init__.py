"""Past one process: corpora on Ray, models over processes, and what it costs."""
