"""`lab sophon`: the TPU compiler of notebook 08."""

from __future__ import annotations

from labsupport.cli.printing import print_line, stoppable


def sophon() -> None:
    """Make the TPU compiler that notebook 08 uses: 300 MB to fetch, 2 GB in the cache, Python 3.10 needed."""
    from labsupport import sophon as compiler

    with stoppable("What was fetched is in uv's cache; the next call begins the environment anew."):
        made = compiler.make_toolchain(print_line)
    print_line(f"TPU-MLIR {made.version} is ready: {made.folder}")
