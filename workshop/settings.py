"""The settings of the project: one table, read by Python here and by the scripts in `scripts/lib.sh`.

`settings.tsv` holds every setting: its name, default, rules and meaning. A value comes from the environment, else from
`settings.env` in the project folder, else from the default. An empty value counts as not set.

`settings.env` has its own small grammar, because bash must read exactly what Python reads. The grammars of dotenv
packages (escapes, expansion of variables, values of several lines) cannot be matched in bash 3.2.

- A line is empty, or a comment that begins with `#`, or `NAME=VALUE`. Blanks around the line and after `=` are ignored.
- A value may be in single or double quotes. Without quotes, it ends before a `#` that follows a blank.
- Nothing is expanded: `$`, backslashes and backticks have no special meaning.
- A name may occur once in the file. Control characters are refused. A line may end with CR LF.

This module imports only the standard library, because every command reads the settings first.
"""

import os
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from workshop.errors import WorkshopError
from workshop.project import ROOT, versions

TABLE = Path(__file__).with_name("settings.tsv")
# The target that this process is connected to.
CONNECTED = "WORKSHOP_CONNECTED"
COLUMNS = ("name", "where", "default", "example", "accept", "refuse", "must", "meaning")
NAME = re.compile("[A-Z][A-Z0-9_]*")
BLANKS = " \t"
CONTROL = re.compile("[\x00-\x1f\x7f]")


class SettingsError(WorkshopError):
    """A setting has a value that its rule refuses, or a line of `settings.env` is not a setting."""


@dataclass(frozen=True)
class Setting:
    """One row of the table.

    Attributes:
        name: the name in the environment and in `settings.env`.
        group: heading under which the template and the docs show the setting.
        in_file: whether `settings.env` may hold it; otherwise it is taken from the environment alone.
        default: value when none is set, or "".
        example: value for the template when there is no default, or "".
        accept: POSIX extended regular expression that must match the whole value.
        refuse: POSIX extended regular expression that must match nothing in the value, or "".
        must: completes the message `NAME is "VALUE"; it must be ...`.
        meaning: one or two sentences.
    """

    name: str
    group: str
    in_file: bool
    default: str
    example: str
    accept: str
    refuse: str
    must: str
    meaning: str

    def accepts(self, value: str) -> bool:
        """Tell whether a value obeys the rule of this setting."""
        # DOTALL and ASCII make Python read the patterns as bash does in the C locale.
        flags = re.DOTALL | re.ASCII
        if CONTROL.search(value) or not re.fullmatch(self.accept, value, flags):
            return False
        return not (self.refuse and re.search(self.refuse, value, flags))

    def check(self, value: str, where: str = "") -> str:
        """Return the value if its rule accepts it.

        Args:
            value: the value, as the user has set it.
            where: file and line, such as `settings.env, line 3`, or "" for the environment.

        Raises:
            SettingsError: the rule refuses the value.
        """
        if not self.accepts(value):
            shown = CONTROL.sub("?", value)
            hint = " Quotes are part of the value: leave them out." if value[:1] in ("'", '"') else ""
            raise SettingsError(f'{where and where + ": "}{self.name} is "{shown}"; it must be {self.must}.{hint}')
        return value


@dataclass(frozen=True)
class Settings:
    """The value of every setting; "" where none is set and there is no default.

    The attributes are the names of the table in lower case. `docs/settings.md` describes them.
    """

    workshop_target: str
    workshop_bucket: str
    aws_default_region: str
    aws_profile: str
    aws_endpoint_url_s3: str
    s3_endpoint_for_pods: str
    kf_pipelines_endpoint: str
    cluster_name: str
    node_type: str
    node_count: int
    node_spot: bool
    kubernetes_version: str
    kubeflow_version: str
    kubeflow_pipelines_version: str
    registry: str
    component_repository: str
    component_image: str
    component_base_image: str
    image_platform: str
    source_date_epoch: int
    pip_config_file: str
    pip_cert: str
    kubeflow_namespace: str
    service_account: str
    workshop_data: str
    workshop_dataset: str

    def environment(self) -> dict[str, str]:
        """Return the variables that boto3, the AWS CLI and the kfp SDK read by themselves, where they are set."""
        values = {
            "AWS_DEFAULT_REGION": self.aws_default_region,
            "AWS_REGION": self.aws_default_region,
            "AWS_PROFILE": self.aws_profile,
            "AWS_ENDPOINT_URL_S3": self.aws_endpoint_url_s3,
            "KF_PIPELINES_ENDPOINT": self.kf_pipelines_endpoint,
        }
        return {name: value for name, value in values.items() if value}


def read() -> Settings:
    """Read the settings: the environment first, then `settings.env`, then the defaults of the table.

    `WORKSHOP_SETTINGS` names another file than `settings.env`. A file that does not exist sets nothing.

    Returns:
        Every setting with its value, checked by its rule.

    Raises:
        SettingsError: a value breaks its rule, or a line of the file is not a setting.
    """
    file = settings_file()
    from_file = _read_file(file)
    if os.environ.get(CONNECTED) == "sandbox":  # the sandbox has its own keys, and no profiles
        from_file.pop("AWS_PROFILE", None)
    environment = dict(os.environ)
    environment["AWS_DEFAULT_REGION"] = environment.get("AWS_DEFAULT_REGION") or environment.get("AWS_REGION", "")
    values: dict[str, Any] = {}
    for field in fields(Settings):
        setting = table()[field.name.upper()]
        value = _value(setting, environment, from_file, file)
        if field.type is int:
            values[field.name] = int(value)
        elif field.type is bool:
            values[field.name] = value == "true"
        else:
            values[field.name] = value
    return Settings(**values)


def settings_file() -> Path:
    """Return the path of `settings.env`: `WORKSHOP_SETTINGS`, or the file in the project folder."""
    return Path(os.environ.get("WORKSHOP_SETTINGS") or ROOT / "settings.env")


@cache
def table() -> Mapping[str, Setting]:
    """Read the table of settings.

    Returns:
        Every setting by its name, in the order of the table. A default that the table leaves to `versions.env` is
        filled in.
    """
    found: dict[str, Setting] = {}
    group = ""
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            group = line.removeprefix("## ")
        elif not line.startswith("#"):
            row = dict(zip(COLUMNS, ("" if cell == "-" else cell for cell in line.split("\t")), strict=True))
            if row["name"] != COLUMNS[0]:
                in_file = row.pop("where") == "file"
                if row["default"] == "versions.env":
                    row["default"] = versions()[row["name"]]
                found[row["name"]] = Setting(group=group, in_file=in_file, **row)
    return found


def template() -> str:
    """Return the text of `settings.env.template`: every setting of the file, commented out, with its meaning."""
    lines = [
        "# Copy this file to settings.env, which git ignores, and fill in what your target needs. The lessons and the",
        "# scripts read settings.env; the environment wins over the file. Write one NAME=VALUE a line.",
        "# Keys and passwords do not belong here: log in with `aws configure sso`, or give the notebook server a role.",
        "# `workshop generate` writes this file from workshop/settings.tsv. docs/settings.md explains the settings.",
    ]
    for group, settings in _groups(in_file=True).items():
        lines += ["", f"# ---- {group} ----"]
        for setting in settings:
            lines += textwrap.wrap(setting.meaning, 118, initial_indent="# ", subsequent_indent="# ")
            lines.append(f"# {setting.name}={setting.default or setting.example}")
    return "\n".join(lines) + "\n"


def documentation() -> str:
    """Return the tables of `docs/settings.md` in Markdown."""
    lines = []
    for group, settings in _groups(in_file=True).items():
        lines += [f"### {group}", "", "| name | default | meaning | a value must be |", "|---|---|---|---|"]
        for setting in settings:
            default = f"`{setting.default}`" if setting.default else ""
            lines.append(f"| `{setting.name}` | {default} | {setting.meaning} | {setting.must} |")
        lines.append("")
    for group, settings in _groups(in_file=False).items():
        lines += [f"### {group}", "", "| name | meaning |", "|---|---|"]
        lines += [f"| `{setting.name}` | {setting.meaning} |" for setting in settings]
    return "\n".join(lines) + "\n"


def _groups(in_file: bool) -> dict[str, list[Setting]]:
    found: dict[str, list[Setting]] = {}
    for setting in table().values():
        if setting.in_file == in_file:
            found.setdefault(setting.group, []).append(setting)
    return found


def _value(
    setting: Setting, environment: Mapping[str, str], from_file: Mapping[str, tuple[str, int]], file: Path
) -> str:
    if value := environment.get(setting.name):
        return setting.check(value)
    value, line = from_file.get(setting.name, ("", 0))
    return setting.check(value, f"{file}, line {line}") if value else setting.default


def _read_file(file: Path) -> dict[str, tuple[str, int]]:
    """Return the value and the line number of each setting, by name."""
    try:
        # As in os.environ, bytes that are not UTF-8 are kept, because a path may hold such bytes.
        text = file.read_bytes().decode("utf-8", "surrogateescape")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise SettingsError(f"{file} cannot be read ({error.strerror}); it must be a text file.") from None
    found: dict[str, tuple[str, int]] = {}
    for number, name, value in _lines(file, text):
        if name in found:
            raise SettingsError(
                f"{file}, line {number}: line {found[name][1]} sets {name} already. Delete one of them."
            )
        found[name] = value, number
    return found


def _lines(file: Path, text: str) -> Iterator[tuple[int, str, str]]:
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        where = f"{file}, line {number}"
        line = line.removesuffix("\r")
        if CONTROL.search(line.replace("\t", " ")):
            raise SettingsError(f"{where}, holds a control character. Save the file as plain text in UTF-8.")
        line = line.strip(BLANKS)
        if not line or line.startswith("#"):
            continue
        name, separator, rest = line.partition("=")
        if not separator or not NAME.fullmatch(name):
            raise SettingsError(f"{where}, is not NAME=VALUE. Write one setting a line, without `export`.")
        setting = table().get(name)
        if setting is None:
            raise SettingsError(
                f"{where}: {name} is not a setting. Delete the line; docs/settings.md lists the settings."
            )
        if not setting.in_file:
            raise SettingsError(f"{where}: {name} does not belong in this file. {setting.meaning}")
        yield number, name, _unquoted(rest.lstrip(BLANKS), f"{where}: {name}")


def _unquoted(text: str, where: str) -> str:
    if text[:1] in ("'", '"'):
        value, quote, rest = text[1:].partition(text[0])
        if not quote:
            raise SettingsError(f"{where} begins with a quote that nothing closes. Leave the quotes out.")
        if rest.strip(BLANKS)[:1] not in ("", "#"):
            raise SettingsError(f"{where} has text after its closing quote. Leave the quotes out.")
        return value
    return "" if text.startswith("#") else re.split(r"[ \t]#", text, maxsplit=1)[0].rstrip(BLANKS)
