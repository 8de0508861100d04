"""`python -m compt_fast.report`."""

import sys

from compt_fast.report.command import main

if __name__ == "__main__":
    sys.exit(main())
