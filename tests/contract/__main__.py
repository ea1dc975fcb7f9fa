"""Plays the catalogue at a server: `python -m tests.contract BASE_URL`."""

import sys

from tests.contract.catalogue import CATALOGUE
from tests.contract.player import Player


def main() -> int:
    """Print each exchange that differs, and the counts. Return 1 if an exchange differs."""
    if len(sys.argv) != 2 or not sys.argv[1].startswith(("http://", "https://")):
        print("usage: python -m tests.contract BASE_URL, such as http://localhost:8888", file=sys.stderr)
        return 2
    differing = 0
    with Player(sys.argv[1]) as player:
        for exchange in CATALOGUE:
            if problems := player.play(exchange):
                differing += 1
                print(f"{exchange.name}: {exchange.method} {exchange.path}")
                print("".join(f"    {problem}\n" for problem in problems), end="")
    print(f"{len(CATALOGUE) - differing} equal, {differing} differing")
    return 1 if differing else 0


if __name__ == "__main__":
    raise SystemExit(main())
