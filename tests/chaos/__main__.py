"""Run the scenarios and print what was counted: `python -m tests.chaos --set short|long [--only NAME] [--seed N]`.

Workers that a launch spawns import this module again: nothing heavy is imported before it is the program.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    from tests.chaos.cli import main

    sys.exit(main())
