"""Finds the processes that tasks have left behind, even if a process has hidden where it comes from.

A daemon can leave its process group and empty its environment. On Linux, a process that is a *child subreaper* becomes
the parent of such daemons (prctl(2), PR_SET_CHILD_SUBREAPER). Other systems have no such feature, so daemons are found
there by their process group and by the mark in their environment only.
"""

import ctypes
import os
import sys
from contextlib import suppress

import psutil

_PR_SET_CHILD_SUBREAPER, _PR_GET_CHILD_SUBREAPER = 36, 37
# The library is loaded here: a process that was just forked must not load it.
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def adopt() -> None:
    """Make this process the parent of all processes below it that lose their own parent."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def is_orphan(process: psutil.Process) -> bool:
    """Return whether this process has become the parent of a process that a task has left behind.

    Every task begins a session of its own, and all processes below it have that session or a later one. The processes
    that this process starts for itself stay in its own session.

    Args:
        process: a process that is not the first process of a task.

    Raises:
        psutil.Error: the process has ended.
        OSError: the process has ended.
    """
    return process.ppid() == os.getpid() and os.getsid(process.pid) != os.getsid(0) and _adopts()


def _adopts() -> bool:
    if _LIBC is None:
        return False
    answer = ctypes.c_int(0)
    _LIBC.prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(answer), 0, 0, 0)
    return bool(answer.value)


def reap(pid: int) -> None:
    """Read the exit code of an orphan that has ended, so that no zombie is left."""
    with suppress(OSError):
        os.waitpid(pid, os.WNOHANG)
