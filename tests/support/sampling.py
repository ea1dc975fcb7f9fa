"""The tiers of the tests, and samples of long lists: which part runs in which tier.

A test without a mark runs in every tier. The mark `slow` means from the tier `gate` on, `exhaustive` only in `all`.
"""

import os
import random
from collections.abc import Callable, Iterable
from typing import Any

import pytest

TIERS = ("test", "gate", "all")
SEED_VARIABLE = "WORKSHOP_TEST_SEED"


def seed() -> int:
    """Return the seed of this session's samples; the same in every worker."""
    return int(os.environ[SEED_VARIABLE])


def choose_seed() -> None:
    """Choose a seed for this session, or take the seed in `WORKSHOP_TEST_SEED`.

    Raises:
        pytest.UsageError: the variable holds no whole number.
    """
    given = os.environ.setdefault(SEED_VARIABLE, str(random.SystemRandom().randrange(10**9)))
    if not given.isdecimal():
        raise pytest.UsageError(f"{SEED_VARIABLE} must be a whole number, not {given!r}; try {SEED_VARIABLE}=1")


def sample(
    values: Iterable[Any], test: int, gate: int | None = None, name: Callable[[Any], str] | None = None
) -> list[Any]:
    """Spread a long list over the tiers, for `pytest.mark.parametrize`.

    The list is shuffled with the session's seed. The first `test` values run in every tier, the next ones up to
    `gate` from the tier `gate` on, and the rest in the tier `all` only.

    Args:
        values: the parameters of the test; a tuple holds several parameters.
        test: how many values the tier `test` takes.
        gate: how many values the tier `gate` takes, those of `test` included; all of them by default.
        name: gives the id of a value; by default pytest chooses the ids.

    Returns:
        A `pytest.param` for each value, in the order of the list.
    """
    listed = list(values)
    order = list(range(len(listed)))
    random.Random(f"{seed()} {len(listed)}").shuffle(order)
    rank = {place: number for number, place in enumerate(order)}

    def marks(place: int) -> list[pytest.MarkDecorator]:
        if rank[place] < test:
            return []
        return [pytest.mark.slow if gate is None or rank[place] < gate else pytest.mark.exhaustive]

    return [
        pytest.param(
            *(value if isinstance(value, tuple) else (value,)), marks=marks(place), id=name(value) if name else None
        )
        for place, value in enumerate(listed)
    ]
