"""Downloads compiled pipelines, each in a process of its own: `python -m workshop.sandbox.pipelines_api.downloads URL`.

A server can send its answer byte by byte, and each byte begins the timeout of an HTTP client again. So the whole
process has a time limit, and no thread of this server waits for it.
"""

import asyncio
import sys

from workshop.sandbox.pipelines_api.package import MAX_BYTES

WITHIN_SECONDS = 20
MAX_AT_ONCE = 4
_CHUNK_BYTES = 1 << 16


class DownloadError(Exception):
    """The pipeline cannot be downloaded. The message gives the reason."""


class Downloads:
    """Downloads files; at most `MAX_AT_ONCE` at the same time. Further downloads wait without a thread."""

    def __init__(self) -> None:
        self._slots = asyncio.Semaphore(MAX_AT_ONCE)

    async def fetch(self, url: str) -> bytes:
        """Return the content at an address; of content that is larger than a package, the beginning.

        Args:
            url: an http or https address.

        Raises:
            DownloadError: the content cannot be downloaded, or not within `WITHIN_SECONDS` seconds.
        """
        try:
            async with asyncio.timeout(WITHIN_SECONDS), self._slots:
                return await _fetch(url)
        except TimeoutError:
            raise DownloadError(f"the download takes longer than {WITHIN_SECONDS} s") from None


async def _fetch(url: str) -> bytes:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", __name__, url, stdout=pipe, stderr=pipe)
    try:
        content, problem = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise DownloadError(problem.decode(errors="replace").strip() or "the download was ended")
    return content


def main() -> None:
    """Write the content at an address to the standard output."""
    import requests

    left = MAX_BYTES + 1
    try:
        with requests.get(sys.argv[1], stream=True, timeout=WITHIN_SECONDS) as response:
            response.raise_for_status()
            for chunk in response.iter_content(_CHUNK_BYTES):
                sys.stdout.buffer.write(chunk[:left])
                left -= len(chunk)
                if left <= 0:
                    break
    except (requests.RequestException, OSError, ValueError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
