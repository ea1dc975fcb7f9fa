"""Measurements. They are not tests: no benchmark fails because something is slow."""
