"""The error that the sandbox raises."""

from pathlib import Path

from workshop.errors import WorkshopError


class SandboxError(WorkshopError):
    """The sandbox cannot do the requested work."""


def cannot_write(directory: Path, error: OSError) -> SandboxError:
    """Return the error for a sandbox folder that cannot be written.

    Args:
        directory: the sandbox's folder.
        error: the error of the system.
    """
    return SandboxError(
        f"the sandbox cannot write below {directory}: {error.strerror or error}. Choose a folder that you may write "
        "to, on a disk with free space: export WORKSHOP_SANDBOX_DIR=/some/folder"
    )
