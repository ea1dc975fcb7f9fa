"""The paths of the project's files, independent of the current folder."""

import os
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
BUILD = ROOT / "build"
# The folder of the programs that belong to this Python, such as `weed`, `aws` and `kfp`. The folder of `sys.executable`
# can be another one after connect().
PROGRAMS = Path(sysconfig.get_path("scripts"))


def sandbox_directory() -> Path:
    """Return the folder of the sandbox's state: `WORKSHOP_SANDBOX_DIR`, or `.sandbox` in the project folder."""
    return Path(os.environ.get("WORKSHOP_SANDBOX_DIR") or ROOT / ".sandbox").expanduser().resolve()


def versions() -> dict[str, str]:
    """Read `versions.env`.

    Returns:
        Every version by its name in the file, such as `{"KUBERNETES_VERSION": "1.35", ...}`.
    """
    lines = (ROOT / "versions.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
