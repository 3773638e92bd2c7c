"""`python -m labsupport` is the lab's command line."""

from labsupport.cli import main

if __name__ == "__main__":
    main()
