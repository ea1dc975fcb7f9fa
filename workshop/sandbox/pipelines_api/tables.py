"""What the sandbox's Pipelines API keeps, in one SQLite file.

Server and workers open the file at the same time. It is in WAL mode: readers never wait for a writer, and what was
committed is there after a `kill -9` of any process.
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, Column, Engine, ForeignKey, Index, String, delete, event, text, union
from sqlmodel import Field, Session, SQLModel, create_engine, select

WAIT_FOR_WRITERS_MS = 30_000
AVAILABLE, ARCHIVED = "AVAILABLE", "ARCHIVED"


def _name(**options) -> Any:
    """A column in which upper and lower case are the same, as in the server's MySQL."""
    return Field(sa_column=Column(String(collation="NOCASE"), nullable=False, **options))


def _json(**options) -> Any:
    return Field(sa_column=Column(JSON), **options)


class Experiment(SQLModel, table=True):
    """An experiment; times are whole seconds since the epoch here and below, 0 when something has not happened."""

    sequence: int | None = Field(default=None, primary_key=True)
    experiment_id: str = Field(index=True, unique=True)
    display_name: str = _name(unique=True)
    description: str = ""
    created_at: int = Field(index=True)
    last_run_created_at: int = 0
    storage_state: str = AVAILABLE


class Manifest(SQLModel, table=True):
    """The text of a compiled pipeline, once however many versions and runs hold it."""

    digest: str = Field(primary_key=True)
    content: str


class Pipeline(SQLModel, table=True):
    """A pipeline, which is a name for its versions."""

    sequence: int | None = Field(default=None, primary_key=True)
    pipeline_id: str = Field(index=True, unique=True)
    name: str = _name(unique=True)
    display_name: str = _name()
    description: str = ""
    created_at: int = Field(index=True)


class PipelineVersion(SQLModel, table=True):
    """One version of a pipeline."""

    __table_args__ = (Index("one_name_per_pipeline", "pipeline_id", "name", unique=True),)

    sequence: int | None = Field(default=None, primary_key=True)
    pipeline_version_id: str = Field(index=True, unique=True)
    pipeline_id: str = Field(sa_column=Column(ForeignKey("pipeline.pipeline_id", ondelete="CASCADE"), nullable=False))
    name: str = _name()
    display_name: str = _name()
    description: str = ""
    code_source_url: str = ""
    package_url: str = ""
    manifest: str
    created_at: int


class Run(SQLModel, table=True):
    """A run.

    `manifest` is what it executes. `inline` says that the request held it, rather than the name of a version.
    """

    __table_args__ = (
        Index("runs_by_age", "created_at", "sequence"),
        Index("runs_of_an_experiment", "experiment_id", "created_at", "sequence"),
    )

    sequence: int | None = Field(default=None, primary_key=True)
    run_id: str = Field(index=True, unique=True)
    experiment_id: str
    recurring_run_id: str = Field(default="", index=True)
    display_name: str = _name()
    description: str = ""
    storage_state: str = AVAILABLE
    service_account: str = ""
    pipeline_id: str = ""
    pipeline_version_id: str = ""
    inline: bool = False
    manifest: str
    parameters: dict = _json(default_factory=dict)
    pipeline_root: str = ""
    created_at: int
    scheduled_at: int = 0
    finished_at: int = 0
    state: str = Field(default="PENDING", index=True)
    state_history: list = _json(default_factory=list)
    error: str = ""
    warnings: list = _json(default_factory=list)


class TaskRecord(SQLModel, table=True):
    """A task of a run, as `engine.contract.Task` describes it; its times have fractions of a second."""

    __tablename__ = "task"
    __table_args__ = (Index("tasks_to_reuse", "fingerprint", "state"),)

    sequence: int | None = Field(default=None, primary_key=True)
    task_id: str = Field(index=True, unique=True)
    run_id: str = Field(
        sa_column=Column(ForeignKey("run.run_id", ondelete="CASCADE"), nullable=False, index=True),
    )
    path: str
    name: str
    kind: str
    parent_id: str
    state: str
    state_history: list = _json(default_factory=list)
    cached: bool
    created: float
    started: float
    ended: float
    inputs: dict = _json()
    outputs: dict = _json()
    exit_code: int | None
    error: str
    attempts: int
    fingerprint: str
    log: str


class RecurringRun(SQLModel, table=True):
    """A recurring run. `last_scheduled` is the moment for which it last made a run, `fired` how many it has made."""

    sequence: int | None = Field(default=None, primary_key=True)
    recurring_run_id: str = Field(index=True, unique=True)
    experiment_id: str
    display_name: str = _name()
    description: str = ""
    service_account: str = ""
    pipeline_id: str = ""
    pipeline_version_id: str = ""
    manifest: str = ""
    parameters: dict = _json(default_factory=dict)
    pipeline_root: str = ""
    max_concurrency: int = 1
    trigger: dict = _json(default_factory=dict)
    no_catchup: bool = False
    enabled: bool = True
    created_at: int = Field(index=True)
    updated_at: int = 0
    last_scheduled: int = 0
    fired: int = 0


class Store:
    """The database.

    Args:
        path: the SQLite file; made, with its tables, when missing.
    """

    def __init__(self, path: Path) -> None:
        self._engine = _connect(path)
        SQLModel.metadata.create_all(self._engine)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Give a session that only reads, all of it from one state of the database."""
        with Session(self._engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """Give a session that holds the write lock from its start, and commits at its end unless something is raised.

        A lock that is taken only at the first write could be refused halfway, since somebody else wrote meanwhile.
        """
        immediate = self._engine.execution_options(immediate=True)
        with Session(immediate, expire_on_commit=False) as session, session.begin():
            yield session

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()


def keep_manifest(session: Session, document: dict) -> str:
    """Keep a compiled pipeline and return its digest, by which it is found again."""
    content = json.dumps(document, sort_keys=True, separators=(",", ":"))
    digest = sha256(content.encode()).hexdigest()
    if session.get(Manifest, digest) is None:
        session.add(Manifest(digest=digest, content=content))
        session.flush()
    return digest


def manifest(session: Session, digest: str) -> dict:
    """Return a compiled pipeline."""
    return json.loads(session.exec(select(Manifest.content).where(Manifest.digest == digest)).one())


def forget_unused_manifests(session: Session) -> None:
    """Delete the compiled pipelines that no version and no run holds any more."""
    used = union(*(select(table.manifest) for table in (PipelineVersion, Run, RecurringRun)))
    session.exec(delete(Manifest).where(Manifest.digest.not_in(used)))


def _connect(path: Path) -> Engine:
    engine = create_engine(
        f"sqlite:///{path}", pool_size=48, max_overflow=16, connect_args={"check_same_thread": False}
    )
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    return engine


def _prepare(connection: sqlite3.Connection, _record) -> None:
    connection.isolation_level = None  # transactions begin where _begin says, not where sqlite3 guesses
    connection.execute(f"PRAGMA busy_timeout={WAIT_FOR_WRITERS_MS}")
    connection.execute("PRAGMA journal_mode=WAL")
    # Enough for a process that is killed. Only a loss of power could take the last commits.
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA foreign_keys=ON")


def _begin(connection) -> None:
    immediate = connection.get_execution_options().get("immediate")
    connection.execute(text("BEGIN IMMEDIATE" if immediate else "BEGIN"))
