"""How a run goes from state to state."""

from time import time as now

from workshop.sandbox.pipelines_api.tables import Run

STARTED = ("RUNNING", "CANCELING")
ENDED = ("SUCCEEDED", "SKIPPED", "FAILED", "CANCELED")


def change(run: Run, state: str, message: str = "") -> None:
    """Bring a run into a state, and note when in its history.

    Args:
        run: the run, in a session that writes.
        state: the new state, a name of `V2beta1RuntimeState`.
        message: why, where it did not end well, or what to mind, where it has not ended.
    """
    moment = now()
    run.state = state
    # A new list: a change inside the old one would not be noticed.
    run.state_history = [*run.state_history, {"at": moment, "state": state, "error": message}]
    if state in ENDED:
        run.finished_at = max(int(moment), run.created_at)
        run.error = message if state == "FAILED" else ""
