"""`python -m labsupport` is the lab's command line."""

import sys

if __name__ == "__main__":
    try:
        from labsupport.cli import main

        main()
    except KeyboardInterrupt:  # while modules are imported; later, a command ends so by itself
        sys.exit(130)
