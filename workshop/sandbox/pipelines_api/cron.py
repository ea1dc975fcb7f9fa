"""Reads cron expressions exactly as the real server does, with robfig/cron 1.2.0.

An expression has six fields; the first is the seconds, and the last (the day of the week) may be missing. `?` means
`*`. `@hourly` and similar names are allowed, and `@every 1h30m` too.

Source: `parser.go`, `spec.go` and `constantdelay.go` of https://pkg.go.dev/github.com/robfig/cron@v1.2.0, and
`ParseDuration` of https://pkg.go.dev/time.
"""

import calendar
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction

MONTHS = {name.lower(): number for number, name in enumerate(calendar.month_abbr) if name}
DAYS = {name: number for number, name in enumerate(("sun", "mon", "tue", "wed", "thu", "fri", "sat"))}
NEVER = float("inf")
SEARCH_YEARS = 5  # the server looks for a matching time in this year and in the five years after it
FIELDS: tuple[tuple[int, int, Mapping[str, int]], ...] = (
    (0, 59, {}),
    (0, 59, {}),
    (0, 23, {}),
    (1, 31, {}),
    (1, 12, MONTHS),
    (0, 6, DAYS),
)
NAMED = {
    "@yearly": "0 0 0 1 1 *",
    "@annually": "0 0 0 1 1 *",
    "@monthly": "0 0 0 1 * *",
    "@weekly": "0 0 0 * * 0",
    "@daily": "0 0 0 * * *",
    "@midnight": "0 0 0 * * *",
    "@hourly": "0 0 * * * *",
}
EVERY = "@every "
UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
SECOND = 10**9
LARGEST = 2**63
NUMBER = re.compile(r"(\d*)(?:\.(\d*))?")
SPACES = re.compile(r"[\t\n\v\f\r \x85\xa0]+")


class CronError(ValueError):
    """An expression that the server refuses. The error's text is the server's."""


@dataclass(frozen=True)
class Schedule:
    """When something is due.

    Attributes:
        interval: the seconds between two times; 0 for an expression with fields.
        fields: the allowed seconds, minutes, hours, days of the month, months, and days of the week (0 is Sunday).
        any_day: whether a star allows every day of the month, or every day of the week.
    """

    interval: int = 0
    fields: tuple[frozenset[int], ...] = ()
    any_day: bool = False

    def after(self, moment: float) -> float:
        """Return the first time after a moment, in seconds since the epoch; infinity if there is none.

        Args:
            moment: seconds since the epoch.
        """
        if self.interval:
            return float(int(moment) + self.interval)
        try:
            found = self._first(datetime.fromtimestamp(int(moment) + 1, UTC))
        except (ValueError, OverflowError):  # after the year 9999
            return NEVER
        return found.timestamp() if found else NEVER

    def latest(self, moment: float, now: float) -> float:
        """Return the latest time that is not after `now`.

        Args:
            moment: a time of the schedule that is not after `now`.
            now: seconds since the epoch.
        """
        # The search doubles its reach, because an expression may match each second or once in a leap year.
        reach = 1.0
        while now - reach > moment:
            if (found := self.after(now - reach)) <= now:
                moment = found
                break
            reach *= 2
        while (following := self.after(moment)) <= now:
            moment = following
        return moment

    def _first(self, moment: datetime) -> datetime | None:
        """Return the first time that is not before a moment; None if there is none within the years of the search."""
        seconds, minutes, hours, _, months, _ = self.fields
        if not (seconds and minutes and hours and months):
            return None
        last_year = moment.year + SEARCH_YEARS
        day = moment.replace(hour=0, minute=0, second=0)
        while day.year <= last_year:
            if day.month not in months:
                day = (day.replace(day=1) + timedelta(days=32)).replace(day=1)
                continue
            if self._is_day(day):
                start = max(day, moment)
                for hour in sorted(one for one in hours if one >= start.hour):
                    for minute in sorted(minutes):
                        for second in sorted(seconds):
                            found = day.replace(hour=hour, minute=minute, second=second)
                            if found >= start:
                                return found
            day += timedelta(days=1)
        return None

    def _is_day(self, day: datetime) -> bool:
        in_month, in_week = day.day in self.fields[3], day.isoweekday() % 7 in self.fields[5]
        return in_month and in_week if self.any_day else in_month or in_week


def parse(expression: str) -> Schedule:
    """Read a cron expression.

    Raises:
        CronError: the server refuses the expression.
    """
    if not expression:
        raise CronError("Empty spec string")
    if expression.startswith("@"):
        return _named(expression)
    fields = [field for field in SPACES.split(expression) if field]
    if len(fields) not in (5, 6):
        raise CronError(f"Expected 5 to 6 fields, found {len(fields)}: {expression}")
    if len(fields) == 5:
        fields.append("*")
    read = [_field(text, *bounds) for text, bounds in zip(fields, FIELDS, strict=True)]
    return Schedule(fields=tuple(values for values, _ in read), any_day=read[3][1] or read[5][1])


def _named(expression: str) -> Schedule:
    if expression in NAMED:
        return parse(NAMED[expression])
    if not expression.startswith(EVERY):
        raise CronError(f"Unrecognized descriptor: {expression}")
    try:
        nanoseconds = _duration(expression[len(EVERY) :])
    except CronError as error:
        raise CronError(f"Failed to parse duration {expression}: {error}") from None
    return Schedule(interval=max(nanoseconds, SECOND) // SECOND)


def _field(text: str, lowest: int, highest: int, names: Mapping[str, int]) -> tuple[frozenset[int], bool]:
    """Return the allowed values of a field, and whether the field has a star."""
    allowed: set[int] = set()
    star = False
    for part in filter(None, text.split(",")):
        values, has_star = _range(part, lowest, highest, names)
        allowed |= set(values)
        star = star or has_star
    return frozenset(allowed), star


def _range(text: str, lowest: int, highest: int, names: Mapping[str, int]) -> tuple[range, bool]:
    span, *steps = text.split("/")
    first, *rest = span.split("-")
    star = first in ("*", "?")
    if star:
        start, end = lowest, highest
    else:
        start = _number(first, names)
        if len(rest) > 1:
            raise CronError(f"Too many hyphens: {text}")
        end = _number(rest[0], names) if rest else start
    if len(steps) > 1:
        raise CronError(f"Too many slashes: {text}")
    step = _number(steps[0], {}) if steps else 1
    if steps and not rest:
        end = highest
    if start < lowest:
        raise CronError(f"Beginning of range ({start}) below minimum ({lowest}): {text}")
    if end > highest:
        raise CronError(f"End of range ({end}) above maximum ({highest}): {text}")
    if start > end:
        raise CronError(f"Beginning of range ({start}) beyond end of range ({end}): {text}")
    if step == 0:
        raise CronError(f"Step of range should be a positive number: {text}")
    return range(start, end + 1, step), star


def _number(text: str, names: Mapping[str, int]) -> int:
    if text.lower() in names:
        return names[text.lower()]
    if not re.fullmatch(r"[-+]?[0-9]+", text):
        raise CronError(f'Failed to parse int from {text}: strconv.Atoi: parsing "{text}": invalid syntax')
    if len(text) > 20 or not -LARGEST <= int(text) < LARGEST:
        raise CronError(f'Failed to parse int from {text}: strconv.Atoi: parsing "{text}": value out of range')
    if int(text) < 0:
        raise CronError(f"Negative number ({int(text)}) not allowed: {text}")
    return int(text)


def _duration(text: str) -> int:
    """Return the nanoseconds of a duration such as `-1.5h`, which Go's `time.ParseDuration` accepts."""
    sign, rest = (-1 if text[:1] == "-" else 1), text[1:] if text[:1] in ("-", "+") else text
    if rest == "0":
        return 0
    shown = _quoted(text)
    invalid = CronError(f"time: invalid duration {shown}")
    if not rest:
        raise invalid
    total = 0
    while rest:
        found = NUMBER.match(rest)
        assert found is not None
        whole, fraction = found[1], (found[2] or "")[:30]  # further digits are less than a nanosecond
        if (not whole and not fraction) or len(whole.lstrip("0")) > 19 or int(whole or 0) > LARGEST:
            raise invalid
        rest = rest[found.end() :]
        unit = re.match(r"[^.0-9]*", rest)
        name = unit[0] if unit else ""
        if not name:
            raise CronError(f"time: missing unit in duration {shown}")
        if name not in UNITS:
            raise CronError(f"time: unknown unit {_quoted(name)} in duration {shown}")
        rest = rest[len(name) :]
        total += int(int(whole or 0) * UNITS[name] + Fraction(int(fraction or 0) * UNITS[name], 10 ** len(fraction)))
        if total >= LARGEST + (sign < 0):
            raise invalid
    return sign * total


def _quoted(text: str) -> str:
    """Return a text in quotes as Go's package `time` writes it: with the bytes of letters outside ASCII."""
    letters = (
        chr(byte)
        if 32 <= byte < 128 and chr(byte) not in '"\\'
        else f"\\{chr(byte)}"
        if byte < 128 and byte >= 32
        else f"\\x{byte:02x}"
        for byte in text.encode()
    )
    return f'"{"".join(letters)}"'
