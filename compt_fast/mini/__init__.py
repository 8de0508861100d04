"""The embedded world: generated English, two task suites, and a small T5 trained on it."""
