"""Trained prompts applied to new rows: prompts of any number of artifacts, one trunk, answers in the rows' order."""
