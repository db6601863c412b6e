"""The settings of a project's triggers."""

import re
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import dagster as dg
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

# The two forms of Alertmanager: a plain name, whose value keeps a backslash before other characters (`"a\.b"`); and a
# quoted name of any characters (since 0.27), where that is an error.
_OPERATOR = r"\s*(?:=|!=|=~|!~)\s*"
_PLAIN = rf'[a-zA-Z_:][a-zA-Z0-9_:]*{_OPERATOR}"(?:[^"\\\n]|\\[^\n])*"'
_QUOTED = r'(?:[^"\\\n]|\\[\\"n])'
_MATCHER = re.compile(rf'{_PLAIN}|"{_QUOTED}+"{_OPERATOR}"{_QUOTED}*"')
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_.-]{0,40}")
_SCP_LIKE = re.compile(r"[\w][\w.-]*@[\w][\w.-]*:[\w~./-]+")
GIT_SCHEMES = ("https", "http", "ssh", "file")


def checked_location(url: str) -> str:
    """Return a folder or an fsspec URL without credentials, else raise ValueError."""
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise ValueError(
            "must not contain a user or password: pass credentials in the environment or a mounted file"
        )
    if parts.query or parts.fragment:
        raise ValueError(
            "must not have a query or fragment: a signed URL is a secret and would be stored in the run config"
        )
    if "::" in url or any(ord(c) < 32 for c in url):
        raise ValueError("must be one folder, bucket or URL, without `::` or control characters")
    if not parts.scheme and not url.startswith("/"):
        raise ValueError("must be an absolute path or a URL such as s3://bucket/folder")
    return url


def checked_repository(url: str) -> str:
    """Return a git URL with one of the transports `GIT_SCHEMES` and no password or option, else raise ValueError."""
    if not url or url.startswith("-") or "::" in url or any(c.isspace() or ord(c) < 32 for c in url):
        raise ValueError("must be a git URL: no leading `-`, no `transport::address`, no spaces")
    if _SCP_LIKE.fullmatch(url):
        return url
    parts = urlsplit(url)
    if parts.scheme not in GIT_SCHEMES:
        raise ValueError(f"must start with {', '.join(s + '://' for s in GIT_SCHEMES)} or be user@host:path")
    if parts.password or (parts.username and parts.scheme != "ssh"):
        raise ValueError("must not contain a user or password: use credentials_file")
    if (parts.hostname or "").startswith("-") or (parts.username or "").startswith("-"):
        raise ValueError("must not have a host or user that starts with `-`")
    return url


def _checked_pattern(pattern: str) -> str:
    if not re.fullmatch(r"[\w./-]*\*", pattern) or pattern.startswith("-"):
        raise ValueError(
            "must be a prefix of letters, digits, `.`, `_`, `/`, `-` and one final `*`, such as v*"
        )
    return pattern


def _checked_matcher(matcher: str) -> str:
    if not _MATCHER.fullmatch(matcher):
        raise ValueError(
            'must look like name="value" (or !=, =~, !~), the syntax of Alertmanager matchers; a name with other '
            'characters than letters, digits, `_` and `:` is quoted, as in "service.name"="value"; inside quotes use '
            '\\\\, \\" and \\n for a backslash, a quote and a new line'
        )
    return matcher


def _checked_label(label: str) -> str:
    if not _LABEL.fullmatch(label):
        raise ValueError("must be a label name: letters, digits, `_`, `.` and `-`, at most 41 characters")
    return label


def _checked_http(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be an http:// or https:// URL, such as http://alertmanager:9093")
    return checked_location(url).rstrip("/")


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NewDataTrigger(_Settings):
    """New files at a location start a run that trains on exactly these files."""

    location: Annotated[str, AfterValidator(checked_location)] = Field(
        description="Folder, mounted volume, s3:// prefix or other fsspec URL; or the http(s) URL of one file"
    )
    patterns: list[str] = Field(
        ["*.parquet", "*.csv"], min_length=1, description="Globs that select files by path or name"
    )
    complete_when: Literal["quiet", "success_marker", "manifest"] = Field(
        "quiet",
        description="quiet: unchanged for quiet_seconds; success_marker: its folder has a _SUCCESS not older "
        "than the file; manifest: its folder's SHA256SUMS lists it and the digest matches",
    )
    quiet_seconds: float = Field(
        30, ge=0, le=86_400, description="Time for which a file must be unchanged (s)"
    )
    include_earlier: bool = Field(False, description="Train on all earlier files too, not only the new ones")
    max_files_per_run: int = Field(1_000, ge=1, le=10_000, description="More files wait for the next tick")
    max_file_bytes: int = Field(2 * 1024**3, ge=1, description="Larger files are refused (bytes)")
    interval_seconds: int = Field(30, ge=1, le=86_400, description="Time between two ticks (s)")


class GitTagsTrigger(_Settings):
    """New version tags of a repository start a run with that version."""

    repository: Annotated[str, AfterValidator(checked_repository)] = Field(
        description="https://, ssh://, file://, http:// or user@host:path"
    )
    pattern: Annotated[str, AfterValidator(_checked_pattern)] = Field(
        "v*", description="Prefix of the tags and `*` for the version, such as v* or jukebox/v*"
    )
    require_matching_code: bool | None = Field(
        None,
        description="Hold a tag back until this deployment runs its code; null: yes in Kubernetes, else no",
    )
    credentials_file: Path | None = Field(
        None, description="Mounted file in the format of git-credential-store, for https://"
    )
    ssh_key_file: Path | None = Field(None, description="Mounted private key, for ssh")
    known_hosts_file: Path | None = Field(None, description="Mounted known_hosts, for ssh")
    max_runs_per_tick: int = Field(3, ge=1, le=100, description="More tags wait for the next tick")
    interval_seconds: int = Field(60, ge=1, le=86_400, description="Time between two ticks (s)")


class ModelAlertsTrigger(_Settings):
    """Firing alerts of an Alertmanager start a run."""

    url: Annotated[str, AfterValidator(_checked_http)] = Field(
        description="Alertmanager, with its route prefix if it has one, such as http://alertmanager:9093"
    )
    matchers: list[Annotated[str, AfterValidator(_checked_matcher)]] = Field(
        min_length=1,
        description='Matchers of this project\'s alerts, such as model="jukebox"; all must match',
    )
    cooldown_seconds: float = Field(
        3_600, ge=0, le=30 * 86_400, description="Minimum time between two runs (s)"
    )
    label_tags: list[Annotated[str, AfterValidator(_checked_label)]] = Field(
        ["alertname", "severity"], description="Labels copied to run tags as jukebox/alert_<label>"
    )
    max_runs_per_tick: int = Field(
        1, ge=1, le=100, description="More than 1 has an effect only without a cooldown"
    )
    interval_seconds: int = Field(30, ge=1, le=86_400, description="Time between two ticks (s)")


class ScheduleTrigger(_Settings):
    """The clock starts a run on the data that the deployment names."""

    cron: str = Field(description='When a run starts, in cron syntax, such as "0 3 * * *" or @daily')
    timezone: str = Field("UTC", description="Time zone of `cron`, such as Europe/Berlin")

    @model_validator(mode="after")
    def _check_cron(self) -> "ScheduleTrigger":
        try:
            dg.ScheduleDefinition(job_name="any", cron_schedule=self.cron, execution_timezone=self.timezone)
        except dg.DagsterInvalidDefinitionError as error:
            field, value, allowed = (
                ("timezone", self.timezone, "a name of the tz database, such as Europe/Berlin")
                if "timezone" in str(error)
                else ("cron", self.cron, 'five fields in their ranges, such as "0 3 * * *", or @daily')
            )
            raise ValueError(f"{field} = {value!r}: use {allowed}") from None
        return self


class Triggers(_Settings):
    """What starts training runs of one project automatically. A source without a trigger is not watched."""

    new_data: NewDataTrigger | None = None
    git_tags: GitTagsTrigger | None = None
    model_alerts: ModelAlertsTrigger | None = None
    schedule: ScheduleTrigger | None = None
