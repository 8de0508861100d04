"""`python -m compt_fast COMMAND ...`, the same as the console script `compt-fast`."""

import sys

from compt_fast.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
