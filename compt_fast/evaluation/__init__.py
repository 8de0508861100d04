"""Predicting and scoring rows with a run's prompts."""
