"""`python -m labsupport` is the lab's command line."""

import os
import sys


def add_paths() -> None:
    """Under -I: this file's own package, and what PYTHONPATH lists but for the folder where the lab was called.

    Python 3.10 has no -P, and with -I it leaves out PYTHONPATH, too, in which a prepared environment may have packages.
    """
    listed = filter(os.path.isabs, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    sys.path += [*listed, os.path.dirname(os.path.dirname(os.path.abspath(__file__)))]


if __name__ == "__main__":
    if sys.flags.isolated:
        add_paths()
    try:
        from labsupport.cli import main

        main()
    except KeyboardInterrupt:  # while modules are imported; later, a command ends so by itself
        sys.exit(130)
