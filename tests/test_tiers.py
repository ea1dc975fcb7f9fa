"""The tiers of the tests: which tests run in each tier, the samples of long lists, and the summary of a run."""

import os
import subprocess
import sys
from collections import Counter

import pytest

from tests.support import check_all
from tests.support.sampling import SEED_VARIABLE, sample, seed
from workshop.project import ROOT

# One test for each mark, and two skips for one reason.
TESTS = """
import pytest
from tests.support.sampling import sample

def test_fast(): pass

@pytest.mark.slow
def test_slow(): pass

@pytest.mark.exhaustive
def test_exhaustive(): pass

@pytest.mark.images
def test_images(): pass

@pytest.mark.parametrize("number", [1, 2])
def test_without_its_tool(number): pytest.skip("there is no tool; to run it: install one")

@pytest.mark.parametrize("number", sample(range(10), test=2, gate=5))
def test_of_a_list(number): assert FAILS != number
"""


@pytest.fixture(autouse=True)
def known_seed(clean_environment):
    os.environ[SEED_VARIABLE] = "7"


def marks(parameters) -> list[str]:
    return [mark.name for parameter in parameters for mark in parameter.marks]


def test_a_sample_spreads_a_list_over_the_tiers():
    parameters = sample(range(100), test=5, gate=20)
    assert [parameter.values for parameter in parameters] == [(number,) for number in range(100)]
    assert Counter(marks(parameters)) == {"slow": 15, "exhaustive": 80}


def test_without_a_limit_for_the_gate_the_gate_takes_the_whole_list():
    assert Counter(marks(sample(range(10), test=4))) == {"slow": 6}


def test_the_same_seed_takes_the_same_sample_and_another_seed_another_one():
    first, second = (sample(range(100), test=5) for _ in range(2))
    assert first == second
    os.environ[SEED_VARIABLE] = "8"
    assert sample(range(100), test=5) != first


def run_pytest(folder, *arguments: str, fails: str = "None") -> str:
    (folder / "test_it.py").write_text(TESTS.replace("FAILS", fails))
    plugins = [f"-ptests.support.{name}" for name in ("tiers", "progress")]
    command = [sys.executable, "-m", "pytest", "-n", "0", *plugins, *arguments, str(folder / "test_it.py")]
    options = ["-o", "addopts=", "-p", "no:cacheprovider", "--rootdir", str(folder)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([*command, *options], cwd=folder, env=environment, capture_output=True, text=True).stdout


@pytest.mark.parametrize(
    ("tier", "closing"),
    [
        ("test", "3 passed, 13 skipped"),
        pytest.param("gate", "7 passed, 9 skipped", marks=pytest.mark.slow),
        pytest.param("all", "13 passed, 3 skipped", marks=pytest.mark.slow),
    ],
)
def test_each_tier_runs_its_tests_and_says_at_the_end_what_was_skipped_and_why(tmp_path, tier, closing):
    said = run_pytest(tmp_path, "--tier", tier)
    assert closing in said.splitlines()[-1], said
    assert f"{SEED_VARIABLE}={seed()}" in said
    assert "   2 x there is no tool; to run it: install one\n" in said
    assert "   1 x builds images" in said
    assert ("make check-all" in said) == (tier != "all")


@pytest.mark.slow
def test_a_failure_is_named_at_once_and_again_at_the_end_with_the_seed(tmp_path):
    [number] = [p.values[0] for p in sample(range(10), test=2, gate=5) if not p.marks][:1]
    said = run_pytest(tmp_path, fails=str(number))
    assert said.count(f"FAILED test_it.py::test_of_a_list[{number}]") == 2, said
    assert f"{SEED_VARIABLE}=7; to take the same samples again, set it" in said
    assert "1 failed" in said.splitlines()[-1]


@pytest.mark.slow
def test_a_seed_that_is_no_number_is_wrong_usage(tmp_path):
    os.environ[SEED_VARIABLE] = "x"
    command = [sys.executable, "-m", "pytest", "-n", "0", "-ptests.support.tiers", "-o", "addopts=", str(tmp_path)]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 4 and f"{SEED_VARIABLE} must be a whole number, not 'x'" in done.stderr


def test_the_page_of_check_all_has_the_date_the_commit_and_a_row_for_each_part():
    results = [check_all.Checked("images", passed=3, failed=1, skipped=2, seconds=61.4, status=1)]
    page = check_all.describe(results, "0123456789ab", changed=True)
    assert "| images | 3 | 1 | 2 | 61 |" in page
    assert "commit 0123456789ab with uncommitted changes" in page and f"{SEED_VARIABLE}=7" in page
