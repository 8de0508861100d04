"""The tables and figures of both papers from trained runs, which `compt_fast.report` makes.

`runs` reads run folders, `formulas` and `contrasts` hold the numbers, `draw` the pictures; each module whose name
begins with `about_` makes the exhibits of one kind of question, and `page` writes them all.
"""
