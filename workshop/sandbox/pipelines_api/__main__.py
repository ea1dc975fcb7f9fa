"""Runs the server: `python -m workshop.sandbox.pipelines_api PORT`. Other settings come from the environment."""

import os
import sys
from pathlib import Path
from typing import cast


def main() -> None:
    """Serve until the process is asked to stop."""
    from workshop.sandbox.http_server import serve
    from workshop.sandbox.pipelines_api import DIRECTORY_VARIABLE, RUNNER_VARIABLE, RUNNERS, SECRET_VARIABLE
    from workshop.sandbox.pipelines_api.app import make_app
    from workshop.sandbox.pipelines_api.engine.contract import Runner

    directory = Path(os.environ[DIRECTORY_VARIABLE])
    secret = os.environ.pop(SECRET_VARIABLE)  # tasks inherit the environment, and must not see the secret
    runner = os.environ[RUNNER_VARIABLE]
    if runner not in RUNNERS:
        raise SystemExit(f"{RUNNER_VARIABLE} is {runner!r}; it must be one of {RUNNERS}")
    app = make_app(directory, secret, directory.parent, cast(Runner, runner))
    serve(app, int(sys.argv[1]), timeout_graceful_shutdown=2)


if __name__ == "__main__":
    main()
