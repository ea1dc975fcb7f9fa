"""Recognizes the errors by which AWS, its CLI and boto3 tell that a login has ended, and says how to log in.

`aws_logins.tsv` holds the texts of these errors. The scripts read the same table in `scripts/lib.sh`.
"""

from functools import cache
from pathlib import Path

TABLE = Path(__file__).with_name("aws_logins.tsv")
USUAL_ADVICE = "Log in with `aws sso login` (first `aws configure sso`), or export AWS_PROFILE"
# Exit status of a program that lacks a tool or a login.
LOGIN_STATUS = 3


def login_advice(error: BaseException | str) -> str:
    """Return the advice for an error of AWS that comes from the login.

    Args:
        error: an error of botocore, or its text.

    Returns:
        What to do; "" if the error does not come from the login.
    """
    text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    return next((advice for part, advice in _table() if part in text), "")


@cache
def _table() -> list[tuple[str, str]]:
    lines = TABLE.read_text(encoding="utf-8").splitlines()
    rows = (line.partition("\t") for line in lines if not line.startswith("#"))
    return [(part, USUAL_ADVICE if advice == "-" else advice) for part, _, advice in rows]
