"""Measurements. A benchmark is not a test, and does not fail because the code is slow."""
