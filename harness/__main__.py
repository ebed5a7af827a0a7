"""`python -m harness`. Worker processes import this file too, so that nothing happens unless it is the program."""

from __future__ import annotations

if __name__ == "__main__":
    from harness.cli import main

    main()
