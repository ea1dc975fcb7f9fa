"""The reports of the benchmarks, from figures that the tests make up. No test measures anything."""

import subprocess

import pytest

from benchmarks import images, report, test_time
from benchmarks.server import BenchmarkError


def test_the_report_on_images_is_a_page_and_a_picture(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results")
    found = {
        name: images.Measured(
            name, build=2.0, size=3_000_000, packed=1_000_000, runner=[0.5], command=[0.5], nothing=[0.1]
        )
        for name in ("naive", "component")
    }
    images._write("this machine", [images._of_tasks(found)], found)
    page = (tmp_path / "results" / "images.md").read_text()
    assert "| kfp.local.DockerRunner | 0.50 | 0.50 | 1.0 |" in page and "component 3 MB" in page
    assert (tmp_path / "results" / "images.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def small_project(tmp_path):
    """A project whose tests pass in its first commit, and fail in the working tree after one second."""
    project = tmp_path / "a project"
    project.mkdir()
    makefile = project / "Makefile"
    makefile.write_text(
        ".venv/.ready:\n\tmkdir -p .venv; sleep 2; touch $@\n\ntest:\n\t@cat .venv/.ready; echo 3 passed\n"
    )
    git = ["git", "-c", "user.name=Test", "-c", "user.email=test@example.invalid"]
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "First"]):
        subprocess.run([*git, *command], cwd=project, check=True)
    makefile.write_text(makefile.read_text().replace("echo 3 passed", "sleep 1; echo 1 failed; exit 1"))
    return project


@pytest.mark.slow
def test_the_time_of_the_tests_is_measured_for_a_revision_and_the_working_tree_without_their_environments(
    small_project,
):
    before, after = test_time.measure(small_project, "HEAD")
    assert (before.status, before.summary) == (0, "3 passed") and before.seconds < 2
    assert after.status == 2 and after.seconds > 1
    listed = subprocess.run(["git", "worktree", "list"], cwd=small_project, capture_output=True, text=True, check=True)
    assert len(listed.stdout.splitlines()) == 1, "the temporary checkout was not removed"


def test_an_unknown_revision_is_an_error_of_git(small_project):
    with pytest.raises(BenchmarkError, match=r"git worktree add .* failed in .*\n.*no-such-revision"):
        test_time.measure(small_project, "no-such-revision")


def test_the_report_on_the_time_of_the_tests_has_both_times_and_their_ratio():
    before, after = test_time.TestRun(400.0, 0, "900 passed"), test_time.TestRun(100.0, 1, "1 failed")
    assert test_time.report("cbbd6da", before, after).splitlines() == [
        "cbbd6da: 400.0 s, exit status 0: 900 passed",
        "working tree: 100.0 s, exit status 1: 1 failed",
        "working tree / cbbd6da: 0.25",
    ]
