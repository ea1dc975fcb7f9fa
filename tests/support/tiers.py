"""A pytest plugin: the option `--tier`, the marks that belong to it, and the seed of samples."""

import pytest

from tests.support.sampling import SEED_VARIABLE, TIERS, choose_seed, seed

# The tier from which on a marked test runs, and the reason why it is skipped before.
MARKS = {
    "slow": ("gate", "too slow for `make test`; to run it: make test ARGS='--tier gate'"),
    "exhaustive": ("all", "runs in the longest tier only; to run it: make check-all"),
}
IMAGES = "builds images, which takes minutes and needs Docker; to run it: pytest -n 0 --images tests/docker"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("workshop")
    group.addoption("--tier", choices=TIERS, default="test", help="how much to run: test (3 minutes), gate, or all")
    group.addoption("--images", action="store_true", help="run the tests that build images, too")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Name the marks, and give every generator of inputs the same seed."""
    for mark, (tier, _) in MARKS.items():
        config.addinivalue_line("markers", f"{mark}: runs from the tier {tier} on")
    config.addinivalue_line("markers", "attack: repeats an attack on the sandbox; to run them all: make attack")
    config.addinivalue_line("markers", "docker: needs a running Docker engine; skipped without one")
    config.addinivalue_line("markers", "images: builds images; skipped without --images")
    choose_seed()
    if config.getoption("hypothesis_seed", None) is None:
        config.option.hypothesis_seed = str(seed())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip the tests of longer tiers."""
    tier = TIERS.index(config.getoption("tier"))
    for item in items:
        for mark, (begins, reason) in MARKS.items():
            if item.get_closest_marker(mark) and tier < TIERS.index(begins):
                item.add_marker(pytest.mark.skip(reason=reason))
        if item.get_closest_marker("images") and not config.getoption("images"):
            item.add_marker(pytest.mark.skip(reason=IMAGES))


def pytest_report_header(config: pytest.Config) -> str:
    return f"tier: {config.getoption('tier')}; seed of samples: {SEED_VARIABLE}={seed()}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the seed again below the failures."""
    failed = any(terminalreporter.stats.get(outcome) for outcome in ("failed", "error"))
    again = "; to take the same samples again, set it" if failed else ""
    terminalreporter.write_line(f"seed of samples: {SEED_VARIABLE}={seed()}{again}")
