"""The one exception that a reader is meant to read."""


class WorkshopError(Exception):
    """Something a reader can put right. The message names it, says what was expected, and what to do next."""

    def _render_traceback_(self) -> list[str]:
        """Show only the message in a notebook: the frames inside `workshop` say nothing to a learner.

        IPython calls this method on any exception that has it (`IPython.core.interactiveshell`).
        """
        return [f"{type(self).__name__}: {self}"]
