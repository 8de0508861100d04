"""Soft prompts of a fleet: their parameters, encoders, routers and composition. Knows no trunk."""
