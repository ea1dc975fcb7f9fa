"""Cron expressions, compared with robfig/cron 1.2.0.

`robfig_cron_answers.json` holds what `cron.Parse` and `Schedule.Next` of that version answer: for each expression the
error, or the next four times after each moment of `MOMENTS`. The expressions are generated; -1 means that there is no
time.
"""

import json
from pathlib import Path

import pytest

from workshop.sandbox.pipelines_api.cron import NEVER, CronError, parse

ANSWERS = json.loads(Path(__file__).with_name("robfig_cron_answers.json").read_text())
MOMENTS = (1793534400, 1793620799, 1772323199, 1798761599, 946684800)


def following(expression: str, moment: float) -> list[int]:
    found: list[int] = []
    schedule = parse(expression)
    while len(found) < 4 and moment != NEVER:
        moment = schedule.after(moment)
        found.append(-1 if moment == NEVER else int(moment))
    return found


@pytest.mark.parametrize("answer", [one for one in ANSWERS if "times" in one], ids=lambda one: one["cron"])
def test_the_times_of_an_expression_are_those_of_the_server(answer):
    assert [following(answer["cron"], moment) for moment in MOMENTS] == answer["times"]


@pytest.mark.parametrize("answer", [one for one in ANSWERS if "error" in one], ids=lambda one: one["cron"])
def test_an_expression_that_the_server_refuses_is_refused_in_its_words(answer):
    with pytest.raises(CronError) as refused:
        parse(answer["cron"])
    assert str(refused.value) == answer["error"]


def test_the_latest_missed_time_of_a_rare_and_of_a_frequent_schedule_is_found():
    moment = parse("0 0 0 29 2 *").after(MOMENTS[-1])
    assert parse("0 0 0 29 2 *").latest(moment, 1793534400) == 1709164800  # 29 February 2024
    assert parse("* * * * * *").latest(MOMENTS[-1] + 1, 1793534400) == 1793534400


@pytest.mark.parametrize("text", ["9" * 5_000 + "h", "1" + "." + "3" * 5_000 + "h", "*/" + "9" * 5_000])
def test_a_very_long_number_is_read_or_refused_without_a_crash(text):
    try:
        assert parse(f"@every {text}").interval > 0
    except CronError as error:
        assert "duration" in str(error)
