"""Defines the files and folders in the folder of a run. All other modules use these names.

DATA/runs/RUN_ID/
    workspace/              the workspace of the pipeline
    downloads/              artifacts that tasks of the run have read
    tasks/TASK_ID/log       the output of a task
    tasks/TASK_ID/outputs/  what a task writes
    tasks/TASK_ID/tmp/      the working folder of a task
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

_RUNS = "runs"


@dataclass(frozen=True)
class TaskFolder:
    """The folder of one task.

    Attributes:
        path: the folder.
    """

    path: Path

    @property
    def outputs(self) -> Path:
        """Where the task writes its outputs."""
        return self.path / "outputs"

    @property
    def scratch(self) -> Path:
        """The task's working folder, which is also its TMPDIR."""
        return self.path / "tmp"

    @property
    def packages(self) -> Path:
        """Where packages go that the task's own code installs."""
        return self.scratch / "packages"

    def prepare(self) -> None:
        """Create empty folders for an attempt. Files of earlier attempts are deleted; the log stays."""
        for folder in (self.outputs, self.scratch):
            remove(folder)
            folder.mkdir(parents=True)

    def clear(self) -> None:
        """Delete everything, and create the folder that will contain the log."""
        remove(self.path)
        self.path.mkdir(parents=True, exist_ok=True)


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run.

    Attributes:
        path: the folder.
    """

    path: Path

    @property
    def workspace(self) -> Path:
        """The workspace that all tasks of the pipeline share."""
        return self.path / "workspace"

    @property
    def downloads(self) -> Path:
        """Where downloaded artifacts are kept."""
        return self.path / "downloads"

    def task(self, task_id: str) -> TaskFolder:
        """Return the folder of a task."""
        return TaskFolder(self.path / "tasks" / task_id)

    def log(self, name: str) -> Path:
        """Return the path of a log.

        Args:
            name: the log as `contract.Task.log` gives it.
        """
        return self.path / name

    def keep_only_logs(self) -> None:
        """Delete everything except the logs. The artifacts are in S3."""
        for folder in (self.downloads, self.workspace):
            remove(folder)
        for entry in self.path.glob("tasks/*/*"):
            if entry.is_dir() or entry.name != "log":
                remove(entry)

    def remove(self) -> None:
        """Delete the folder."""
        remove(self.path)


def log_name(task_id: str) -> str:
    """Return the name of a task's log, relative to the run's folder."""
    return f"tasks/{task_id}/log"


def of_run(data: Path, run_id: str) -> RunFolder:
    """Return the folder of a run.

    Args:
        data: the folder in which the Pipelines server keeps its data.
        run_id: the id of a run that is in the database. Never pass text from a request.
    """
    return RunFolder(data / _RUNS / run_id)


def all_runs(data: Path) -> list[Path]:
    """Return the folders of all runs.

    Args:
        data: the folder in which the Pipelines server keeps its data.
    """
    runs = data / _RUNS
    return list(runs.iterdir()) if runs.exists() else []


def remove(path: Path) -> None:
    """Delete a file or a folder if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
