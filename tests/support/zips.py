"""Zips made in memory."""

import io
import zipfile


def zipped(files: dict[str, str | bytes], method=zipfile.ZIP_DEFLATED) -> bytes:
    """Return a zip of these files, given by name."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()
