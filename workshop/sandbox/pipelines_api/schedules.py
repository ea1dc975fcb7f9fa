"""Computes when a recurring run is due.

The ScheduledWorkflow controller of kubeflow/pipelines (`backend/src/crd/pkg/.../scheduledworkflow`) defines the rules.
`cron.py` reads cron expressions. Times are in UTC.
"""

from datetime import datetime

from workshop.sandbox.pipelines_api.cron import CronError, Schedule, parse

NEVER = float("inf")
MAX_INTERVAL = 100 * 366 * 24 * 3600


def cron_problem(expression: str) -> str:
    """Return the error in a cron expression; "" if the expression is valid."""
    try:
        parse(expression)
    except CronError as error:
        return str(error)
    return ""


def next_moment(trigger: dict, last: float, created: float, now: float, catch_up: bool) -> float:
    """Return the scheduled time of the next run, in seconds since the epoch.

    Args:
        trigger: a valid `V2beta1Trigger`. A trigger without a schedule is due once, at once.
        last: the scheduled time of the latest run; 0 if there was none.
        created: the creation time of the recurring run. The schedule begins then, unless the trigger has a start time.
        now: the current time.
        catch_up: whether every missed time gets a run. If not, only the latest missed time gets a run.

    Returns:
        The scheduled time; it is in the past if the run is overdue, and infinity if no run will follow.
    """
    schedule = trigger.get("cron_schedule") or trigger.get("periodic_schedule")
    if not schedule:
        return NEVER if last else created
    start = _seconds(schedule.get("start_time")) or created
    end = _seconds(schedule.get("end_time")) or NEVER
    moment = _following(trigger, last or start)
    if not catch_up and moment < now:
        moment = max(moment, min(_latest(trigger, moment, now), end))
    return moment if moment <= end else NEVER


def _following(trigger: dict, moment: float) -> float:
    if "periodic_schedule" in trigger:
        return moment + int(trigger["periodic_schedule"]["interval_second"])
    return _schedule(trigger).after(moment)


def _latest(trigger: dict, moment: float, now: float) -> float:
    """Return the latest time of a schedule that is not in the future.

    Args:
        trigger: the trigger.
        moment: a time of the schedule that has passed.
        now: the current time.
    """
    if "periodic_schedule" in trigger:
        interval = int(trigger["periodic_schedule"]["interval_second"])
    else:
        schedule = _schedule(trigger)
        if not schedule.interval:
            return schedule.latest(moment, now)
        interval = schedule.interval
    return moment + (now - moment) // interval * interval


def _schedule(trigger: dict) -> Schedule:
    return parse(trigger["cron_schedule"]["cron"])


def _seconds(text: str | None) -> float:
    return datetime.fromisoformat(text).timestamp() if text else 0.0
