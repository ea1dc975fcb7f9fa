"""Computes when a recurring run is due.

Sources: the ScheduledWorkflow controller of kubeflow/pipelines (`backend/src/crd/pkg/.../scheduledworkflow`) for the
rules, and https://pkg.go.dev/github.com/robfig/cron for the cron format. An expression has six fields; the first is the
seconds, and the last may be missing. `?` means `*`. `@hourly` and similar names are allowed, and `@every 1h30m`
too. Times are in UTC.
"""

import re
from datetime import UTC, datetime

from croniter import croniter

DURATION = re.compile(r"(?=.)(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")
NAMES = "SUN|MON|TUE|WED|THU|FRI|SAT|JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEP|OCT|NOV|DEC"
PART = rf"(?:\*|\?|(?:\d+|{NAMES})(?:-(?:\d+|{NAMES}))?)(?:/\d+)?"
FIELD = re.compile(rf"{PART}(?:,{PART})*", re.IGNORECASE)
ALIASES = {
    "@yearly": "0 0 0 1 1 *",
    "@annually": "0 0 0 1 1 *",
    "@monthly": "0 0 0 1 * *",
    "@weekly": "0 0 0 * * 0",
    "@daily": "0 0 0 * * *",
    "@midnight": "0 0 0 * * *",
    "@hourly": "0 0 * * * *",
}
NEVER = float("inf")
MAX_INTERVAL = 100 * 366 * 24 * 3600


def cron_problem(cron: str) -> str:
    """Return the error in a cron expression; "" if the expression is valid."""
    if cron.startswith("@every "):
        return "" if _every(cron) else "@every needs a duration like 1h30m"
    fields = ALIASES.get(cron, cron).split()
    if len(fields) not in (5, 6):
        return f"it has {len(fields)} fields instead of 6: second, minute, hour, day of month, month, day of week"
    # croniter accepts more than the real server: L, #, random values.
    if unsupported := [field for field in fields if not FIELD.fullmatch(field)]:
        return f"the server does not support {unsupported[0]!r}"
    if croniter.is_valid(_six_fields(cron), second_at_beginning=True):
        return ""
    return "a field is not valid; an example of a valid expression is `0 30 9 * * 1-5`, half past nine on weekdays"


def next_moment(trigger: dict, last: float, created: float, now: float, catch_up: bool) -> float:
    """Return the scheduled time of the next run, in seconds since the epoch.

    Args:
        trigger: a valid `V2beta1Trigger`.
        last: the scheduled time of the latest run; 0 if there was none.
        created: the creation time of the recurring run. The schedule begins then, unless the trigger has a start time.
        now: the current time.
        catch_up: whether every missed time gets a run. Otherwise only the latest missed time gets one.

    Returns:
        The scheduled time; it is in the past if the run is overdue, and infinity if no run will follow.
    """
    schedule = trigger.get("cron_schedule") or trigger["periodic_schedule"]
    start = _seconds(schedule.get("start_time")) or created
    end = _seconds(schedule.get("end_time")) or NEVER
    moment = _following(trigger, last or start)
    if not catch_up and moment < now:
        moment = max(moment, min(_latest(trigger, moment, now), end))
    return moment if moment <= end else NEVER


def _following(trigger: dict, moment: float) -> float:
    if interval := _interval(trigger):
        return moment + interval
    try:
        cron = croniter(_six_fields(trigger["cron_schedule"]["cron"]), _utc(moment), second_at_beginning=True)
        return float(cron.get_next(datetime).timestamp())
    except (ValueError, OverflowError):  # the time does not exist: 30 February, or a year after 9999
        return NEVER


def _latest(trigger: dict, moment: float, now: float) -> float:
    """Return the latest time of a schedule that is not in the future."""
    if interval := _interval(trigger):
        return moment + (now - moment) // interval * interval
    cron = croniter(_six_fields(trigger["cron_schedule"]["cron"]), _utc(now + 1), second_at_beginning=True)
    return float(cron.get_prev(datetime).timestamp())


def _interval(trigger: dict) -> int:
    """Return the seconds between two runs; 0 if the schedule has no fixed interval."""
    if "periodic_schedule" in trigger:
        return int(trigger["periodic_schedule"]["interval_second"])
    cron = trigger["cron_schedule"]["cron"]
    return _every(cron) if cron.startswith("@every ") else 0


def _every(cron: str) -> int:
    found = DURATION.fullmatch(cron.removeprefix("@every ").strip())
    hours, minutes, seconds = (int(part or 0) for part in found.groups()) if found else (0, 0, 0)
    total = hours * 3600 + minutes * 60 + seconds
    return total if total <= MAX_INTERVAL else 0


def _six_fields(cron: str) -> str:
    fields = ALIASES.get(cron, cron).split()
    return " ".join([*fields, "*"] if len(fields) == 5 else fields)


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _seconds(text: str | None) -> float:
    return datetime.fromisoformat(text).timestamp() if text else 0.0
