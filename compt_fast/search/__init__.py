"""Searching a space of runs: what a trial may be, which comes next, and what came of each."""
