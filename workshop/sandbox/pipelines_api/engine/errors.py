"""The exceptions of the engine."""


class EngineError(Exception):
    """A task or a pipeline cannot continue. The message gives the reason and is shown to the user."""


class Cancelled(Exception):
    """The run was cancelled while this work was in progress."""
