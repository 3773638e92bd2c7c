"""One file per optimisation, named as its notebook: the finished, tested version of what the notebook builds."""
