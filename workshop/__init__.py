"""The targets, the sandbox, and the tools that run and check the lessons."""

from workshop.connect import Target, connect
from workshop.errors import WorkshopError

__all__ = ["Target", "WorkshopError", "connect"]
