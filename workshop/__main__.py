"""The entry point of the command `workshop`: `python -m workshop` and the installed script."""

import os
import sys

from workshop.clean_environment import is_clean, without_python_settings


def main() -> None:
    """Run the command line with the modules of this environment only."""
    if not is_clean(os.environ):  # modules on PYTHONPATH may hide modules that the command needs
        command = [sys.executable, "-P", "-m", "workshop", *sys.argv[1:]]
        os.execve(sys.executable, command, without_python_settings(os.environ))
    from workshop.cli import main

    main()


if __name__ == "__main__":
    main()
