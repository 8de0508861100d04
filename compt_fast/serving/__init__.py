"""Trained prompts behind HTTP: what is served, how requests become batches, and the interface."""
