"""Runs one pipeline of `zero_work` with `kfp.local`, and prints the seconds: `python -m benchmarks.local_engine NAME`.

In a process of its own, because `kfp.local` is set up once for a process and writes to its output. With a second
argument, `venv`, every task gets a virtual environment, which is what `SubprocessRunner()` does by default.
"""

import sys
import tempfile
import time

from kfp import local

from benchmarks import zero_work


def main() -> None:
    """Run it."""
    name, *options = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        local.init(local.SubprocessRunner(use_venv=options == ["venv"]), pipeline_root=folder)
        begun = time.perf_counter()
        getattr(zero_work, name)()
        print(time.perf_counter() - begun)


if __name__ == "__main__":
    main()
