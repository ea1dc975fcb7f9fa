"""Runs one pipeline of `zero_work` with `kfp.local`, and prints the seconds: `python -m benchmarks.local_engine NAME`.

The benchmark starts this module as a separate process, because a process can set up `kfp.local` only once, and
because `kfp.local` writes to standard output. With the second argument `venv`, every task gets a virtual environment,
as with `SubprocessRunner()` by default.
"""

import sys
import tempfile
import time

from kfp import local

from benchmarks import zero_work


def main() -> None:
    """Run the pipeline and print the seconds."""
    name, *options = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        local.init(local.SubprocessRunner(use_venv=options == ["venv"]), pipeline_root=folder)
        begun = time.perf_counter()
        getattr(zero_work, name)()
        print(time.perf_counter() - begun)


if __name__ == "__main__":
    main()
