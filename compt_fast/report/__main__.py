"""`python -m compt_fast.report`."""

import sys

from compt_fast.report.command import main

sys.exit(main())
