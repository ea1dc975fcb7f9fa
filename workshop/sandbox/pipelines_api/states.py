"""Changes the states of runs and of their tasks, and keeps their history."""

from collections.abc import Sequence
from time import time as now

from sqlalchemy import update
from sqlmodel import Session, col, select

from workshop.sandbox.pipelines_api.engine.contract import ENDED, Task
from workshop.sandbox.pipelines_api.tables import Run, TaskRecord

STARTED = ("RUNNING", "CANCELING")
UNFINISHED_TASK = ("PENDING", "RUNNING")
SERVER_ENDED = (
    "The sandbox's Pipelines server ended while this run was executing. Retry the run: tasks that succeeded "
    "are not run again."
)


def change(run: Run, state: str, message: str = "") -> None:
    """Set the state of a run, and add the change to its history.

    As on a cluster, a terminated run ends as FAILED, and CANCELING is never in the history.

    Args:
        run: the run, in a session that writes.
        state: the new state, a name of `V2beta1RuntimeState`.
        message: why the run failed, or warnings for a run that has not ended.
    """
    moment = now()
    run.state = state = "FAILED" if state == "CANCELED" else state
    last = run.state_history[-1]["state"] if run.state_history else ""
    if state not in ("CANCELING", last):
        # A new list: SQLAlchemy does not notice changes inside of a list.
        run.state_history = [*run.state_history, {"at": moment, "state": state, "error": message}]
    if state in ENDED:
        run.finished_at = max(int(moment), run.created_at)
        run.error = message if state == "FAILED" else ""


def retry(run: Run, tasks: Sequence[TaskRecord]) -> None:
    """Let a run that has failed wait for its next execution. As on a cluster, its history begins again with RUNNING.

    Args:
        run: the run, in a session that writes.
        tasks: its tasks. Those that have failed keep their states in `run.earlier`, by their paths.
    """
    earlier = dict(run.earlier or {})
    for task in tasks:
        if task.state in ("FAILED", "CANCELED"):
            earlier[task.path] = [*earlier.get(task.path, []), [task.started or task.created, task.ended, "FAILED"]]
    run.earlier = earlier
    run.state, run.finished_at, run.error = "PENDING", 0, ""
    run.state_history = [{"at": now(), "state": "RUNNING", "error": ""}]


def shown_state(run: Run) -> str:
    """Return the state that the API shows: a run that waits for its next execution after a retry is RUNNING."""
    waits_again = run.state == "PENDING" and run.state_history and run.state_history[-1]["state"] == "RUNNING"
    return "RUNNING" if waits_again else run.state


def close_tasks(session: Session, run_id: str, state: str, message: str) -> None:
    """Set the state of all tasks of a run that have not ended.

    Args:
        session: a session that writes.
        run_id: the run.
        state: the new state.
        message: why the tasks ended.
    """
    moment = now()
    # The rows are not loaded as a whole: the inputs of a task may be large, and a loop has many tasks.
    unfinished = select(TaskRecord.sequence, TaskRecord.state_history)
    unfinished = unfinished.where(TaskRecord.run_id == run_id, col(TaskRecord.state).in_(UNFINISHED_TASK))
    entry = {"at": moment, "state": state, "error": message}
    changes = [
        {"sequence": number, "state": state, "ended": moment, "error": message, "state_history": [*history, entry]}
        for number, history in session.exec(unfinished).all()
    ]
    if changes:
        session.execute(update(TaskRecord), changes)


def close(session: Session, run: Run, reason: str) -> None:
    """End a run whose worker process is gone, and its tasks.

    Args:
        session: a session that writes.
        run: a run with a state of `STARTED`.
        reason: why a run that was not cancelled failed.
    """
    state, message = ("CANCELED", "") if run.state == "CANCELING" else ("FAILED", reason)
    close_tasks(session, run.run_id, state, message)
    change(run, state, message)


def history_with(history: list, task: Task) -> list:
    """Return the history of a task with its current state, if the state has changed.

    Args:
        history: the history up to now.
        task: the task.
    """
    if history and history[-1]["state"] == task.state:
        return history
    return [*history, {"at": now(), "state": task.state, "error": task.error}]
