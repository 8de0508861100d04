"""Trunks, frozen language models, and what goes into them. `api` says what a trunk is. Imports no torch itself."""
