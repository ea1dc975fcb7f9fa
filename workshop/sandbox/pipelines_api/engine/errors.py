"""What can go wrong in a way that a learner should read."""


class EngineError(Exception):
    """A task or pipeline cannot go on; the message says why in words of the pipeline."""


class Cancelled(Exception):
    """The run was cancelled while this was under way."""
