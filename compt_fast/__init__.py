"""Compositional prompt tuning of a frozen T5: many runs in one pass over one trunk.

Importing this package loads nothing heavy and touches no device; `compt_fast.train`,
`compt_fast.evaluate` and `compt_fast.info` are its commands. Imported before torch, it also bounds how
long torch's threads spin (`compt_fast.utils.openmp`).
"""

import os

from compt_fast.utils.openmp import bound_spinning

__version__ = "0.1.0"

bound_spinning(os.environ)
