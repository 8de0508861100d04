"""`python -m compt_fast.report RUN [RUN ...] -o DIR`: the tables and figures of both papers from trained runs.

`runs` reads run folders, `formulas` and `contrasts` hold the numbers, `draw` the pictures; each module whose name
begins with `about_` makes the exhibits of one kind of question, and `page` writes them all.
"""

from compt_fast.report.command import main

__all__ = ["main"]
