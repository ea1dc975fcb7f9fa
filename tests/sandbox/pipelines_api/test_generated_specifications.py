"""Changed pipelines and generated YAML are read or refused; nothing else happens, and soon."""

import copy
import json
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support import every_kind
from tests.support.engine_bench import compiled
from workshop.sandbox.pipelines_api import engine, package
from workshop.sandbox.pipelines_api.errors import ApiError

pytestmark = pytest.mark.attack
WITHIN_SECONDS = 2
NUMBER = {"test": 60, "gate": 600, "all": 10_000}
VALUES = [None, True, 0, -1, 1.5, 10**400, float("inf"), "", "x", "root", "\ud800", "!" * 50, [], {}, [[]], {"": {}}]
PARTS = [
    "a",
    "&a ",
    "*a",
    "*b",
    "<<",
    ": ",
    "? ",
    "- ",
    "\n",
    "\n  ",
    "[",
    "]",
    "{",
    "}",
    ",",
    "'",
    '"',
    "|\n",
    ">",
    "!!int ",
    "!x ",
    "%YAML 1.1\n",
    "---\n",
    "...\n",
    "1:2",
    "0x1f",
    "0o7",
    "1e5",
    ".inf",
    ".nan",
    "~",
    "yes",
    "\t",
    "\0",
    "#",
    "🙂",
]
SPECS = [compiled(kind.pipeline)[0] for kind in every_kind.KINDS.values() if compiled(kind.pipeline)[0]]
own_settings = settings(deadline=None, suppress_health_check=list(HealthCheck), database=None)


@pytest.fixture
def number(pytestconfig) -> int:
    return NUMBER[pytestconfig.getoption("tier")]


def read(content: bytes) -> None:
    """Read a file and check the pipeline. Only a refusal is an expected error."""
    begun = time.thread_time()
    try:
        found = package.read_file(content, "generated.yaml")
        engine.check(found.spec, found.platform, "subprocess")
        package.check_arguments(found.spec, {})
    except ApiError as error:
        assert error.status == 400
    assert time.thread_time() - begun < WITHIN_SECONDS


def test_changed_pipelines_are_read_or_refused(number):
    @settings(own_settings, max_examples=number)
    @given(st.sampled_from(SPECS), st.lists(st.tuples(st.randoms(), st.sampled_from(VALUES)), min_size=1, max_size=4))
    def check(spec, changes):
        changed = copy.deepcopy(spec)
        for random, value in changes:
            change(changed, random, value)
        read(json.dumps(changed).replace("Infinity", "1e999").encode())

    check()


def change(document: dict, random, value) -> None:
    """Replace one value of a document, at a random level, or give it another name."""
    place = document
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return
        key = random.choice(keys)
        if not isinstance(place[key], dict | list) or not place[key] or random.random() < 0.15:
            break
        place = place[key]
    if isinstance(place, dict) and random.random() < 0.3:
        place[random.choice(["a", "tasks", "dag", key.upper()])] = place.pop(key)
    else:
        place[key] = copy.deepcopy(value)


def test_generated_yaml_is_read_or_refused(number):
    @settings(own_settings, max_examples=number)
    @given(st.lists(st.sampled_from(PARTS), max_size=40).map("".join))
    def check(text):
        read(text.encode())

    check()
