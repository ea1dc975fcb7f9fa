"""The base class of the errors that a reader can correct."""


class WorkshopError(Exception):
    """An error that the reader can correct. The message names the cause, the expectation and the next step.

    Attributes:
        exit_status: the exit status of a command that ends with this error.
    """

    exit_status = 1

    def _render_traceback_(self) -> list[str]:
        """Return the message alone for a notebook: the frames inside `workshop` do not help a learner.

        IPython calls this method on any exception that has it (`IPython.core.interactiveshell`).
        """
        return [f"{type(self).__name__}: {self}"]
