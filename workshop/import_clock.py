"""An IPython extension that measures how long a lesson's imports take, whatever cells they stand in.

`workshop.lessons` loads it into the kernels that it starts. After each cell it writes the seconds so far into the
file that the environment variable `WORKSHOP_IMPORT_CLOCK` names.
"""

import builtins
import os
import time
from pathlib import Path

VARIABLE = "WORKSHOP_IMPORT_CLOCK"


def load_ipython_extension(shell) -> None:
    """Start measuring. IPython calls this function by its name."""
    clock = _Clock(builtins.__import__)
    builtins.__import__ = clock.timed_import
    target = Path(os.environ[VARIABLE])
    shell.events.register("post_run_cell", lambda *_: target.write_text(f"{clock.seconds:.4f}"))


class _Clock:
    def __init__(self, real_import) -> None:
        self.seconds = 0.0
        self._real_import = real_import
        self._inside = False

    def timed_import(self, *arguments, **options):
        if self._inside:  # part of an import that is being timed
            return self._real_import(*arguments, **options)
        self._inside = True
        begun = time.perf_counter()
        try:
            return self._real_import(*arguments, **options)
        finally:
            self.seconds += time.perf_counter() - begun
            self._inside = False
