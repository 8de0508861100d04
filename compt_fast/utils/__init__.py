"""Small helpers that know nothing of prompts: files, locks, inputs, messages."""
