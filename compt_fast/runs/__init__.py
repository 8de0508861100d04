"""A job on disk: its folder, plan of stages, results, and what is loaded again."""
