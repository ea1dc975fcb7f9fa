"""Changes the states of runs and of their tasks, and keeps their history."""

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

    Args:
        run: the run, in a session that writes.
        state: the new state, a name of `V2beta1RuntimeState`.
        message: why the run failed, or warnings for a run that has not ended.
    """
    moment = now()
    run.state = state
    # A new list: SQLAlchemy does not notice changes inside of a list.
    run.state_history = [*run.state_history, {"at": moment, "state": state, "error": message}]
    if state in ENDED:
        run.finished_at = max(int(moment), run.created_at)
        run.error = message if state == "FAILED" else ""


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
        run: a run with a state of `STARTED`. A run in the state CANCELING becomes CANCELED.
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
