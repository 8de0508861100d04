"""Baselines: what the papers hold prompts against, which trains weights of the trunk, or beside it."""
