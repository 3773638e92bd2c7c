"""One file per optimisation: the finished, tested version of what a notebook builds."""
