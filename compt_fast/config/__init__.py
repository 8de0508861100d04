"""Settings: flags, presets, runs' configurations, recipes."""
