"""Measurements. They are no tests: nothing here fails because it takes long."""
