"""Settings: flags, presets, what a run and a job are."""
