"""The server's process: `python -m workshop.sandbox.pipelines_api PORT`, with the rest in the environment."""

import os
import sys
from pathlib import Path


def main() -> None:
    """Serve until told to stop."""
    import uvicorn

    from workshop.sandbox.pipelines_api import DIRECTORY_VARIABLE, RUNNER_VARIABLE, SECRET_VARIABLE
    from workshop.sandbox.pipelines_api.app import make_app
    from workshop.sandbox.processes import HOST

    directory = Path(os.environ[DIRECTORY_VARIABLE])
    secret = os.environ.pop(SECRET_VARIABLE)  # tasks must not find it in their environment
    app = make_app(directory, secret, directory.parent, os.environ[RUNNER_VARIABLE])
    uvicorn.run(app, host=HOST, port=int(sys.argv[1]), access_log=False, timeout_graceful_shutdown=2)


if __name__ == "__main__":
    main()
