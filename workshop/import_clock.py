"""An IPython extension that measures the time of a lesson's imports, in all its cells.

`workshop.lessons` loads the extension into the kernels that it starts. After each cell, the extension writes the total
in seconds into the file that the environment variable `WORKSHOP_IMPORT_CLOCK` names.
"""

import builtins
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

VARIABLE = "WORKSHOP_IMPORT_CLOCK"


def load_ipython_extension(shell: Any) -> None:
    """Start measuring. IPython calls this function by its name."""
    clock = _Clock(builtins.__import__)
    builtins.__import__ = clock.timed_import
    target = Path(os.environ[VARIABLE])
    shell.events.register("post_run_cell", lambda *_: target.write_text(f"{clock.seconds:.4f}"))


class _Clock:
    def __init__(self, real_import: Callable[..., Any]) -> None:
        self.seconds = 0.0
        self._real_import = real_import
        self._inside = False

    def timed_import(self, *arguments: Any, **options: Any) -> Any:
        if self._inside:  # the outer import measures this time too
            return self._real_import(*arguments, **options)
        self._inside = True
        started = time.perf_counter()
        try:
            return self._real_import(*arguments, **options)
        finally:
            self.seconds += time.perf_counter() - started
            self._inside = False
