"""Defines the database of the sandbox's Pipelines API, one SQLite file.

The server and the workers open the file at the same time. The file is in WAL mode: readers never wait for a writer, and
committed data survives a `kill -9` of any process.
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from sqlalchemy import (
    JSON,
    URL,
    Column,
    Connection,
    Engine,
    ForeignKey,
    Index,
    String,
    delete,
    event,
    inspect,
    text,
    union,
)
from sqlmodel import Field, Session, SQLModel, col, create_engine, select

WAIT_FOR_WRITERS_MS = 30_000
JOURNAL_BYTES = 4 << 20
AVAILABLE, ARCHIVED = "AVAILABLE", "ARCHIVED"


def _name(**options: Any) -> Any:
    """Return a column that ignores case, as the MySQL database of the real server does."""
    return Field(sa_column=Column(String(collation="NOCASE"), nullable=False, **options))


def _json(**options: Any) -> Any:
    return Field(sa_column=Column(JSON), **options)


class Experiment(SQLModel, table=True):
    """An experiment. In all tables, times are whole seconds since the epoch; 0 means no time."""

    __table_args__ = (Index("one_experiment_of_a_name", "namespace", "display_name", unique=True),)

    sequence: int | None = Field(default=None, primary_key=True)
    experiment_id: str = Field(index=True, unique=True)
    namespace: str = Field(default="", sa_column_kwargs={"server_default": ""})
    display_name: str = _name()
    description: str = ""
    created_at: int = Field(index=True)
    last_run_created_at: int = 0
    storage_state: str = AVAILABLE


class Manifest(SQLModel, table=True):
    """The text of a compiled pipeline. Versions and runs with the same text share one row."""

    digest: str = Field(primary_key=True)
    content: str


class Pipeline(SQLModel, table=True):
    """A pipeline: a name that groups versions."""

    __table_args__ = (Index("one_pipeline_of_a_name", "namespace", "name", unique=True),)

    sequence: int | None = Field(default=None, primary_key=True)
    pipeline_id: str = Field(index=True, unique=True)
    namespace: str = Field(default="", sa_column_kwargs={"server_default": ""})
    name: str = _name()
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

    `manifest` is the digest of its pipeline. `inline` is true if the request contained the pipeline, and false if the
    request named a version.
    """

    __table_args__ = (
        Index("runs_by_age", "created_at", "sequence"),
        Index("runs_of_an_experiment", "experiment_id", "created_at", "sequence"),
    )

    sequence: int | None = Field(default=None, primary_key=True)
    run_id: str = Field(index=True, unique=True)
    namespace: str = Field(default="", sa_column_kwargs={"server_default": ""})
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
    earlier: dict | None = _json(default=None)  # the tasks of earlier executions, see `states.retry`
    warnings: list = _json(default_factory=list)


class TaskRecord(SQLModel, table=True):
    """A task of a run; `engine.contract.Task` describes the columns. Times have fractions of a second."""

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
    """A recurring run.

    `last_scheduled` is the scheduled time of its latest run. `fired` is the number of its runs.
    """

    sequence: int | None = Field(default=None, primary_key=True)
    recurring_run_id: str = Field(index=True, unique=True)
    namespace: str = Field(default="", sa_column_kwargs={"server_default": ""})
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
    trigger: dict | None = _json(default_factory=dict)
    no_catchup: bool = False
    enabled: bool = True
    created_at: int = Field(index=True)
    updated_at: int = 0
    last_scheduled: int = 0
    fired: int = 0


class Store:
    """The database.

    Args:
        path: the SQLite file. The file and its tables are created if they do not exist.
    """

    def __init__(self, path: Path) -> None:
        self._engine = _connect(path)
        _add_new_columns(self._engine)
        SQLModel.metadata.create_all(self._engine)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Yield a session that only reads. The session sees one consistent state of the database."""
        with Session(self._engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """Yield a session that holds the write lock. The session commits at its end, or rolls back after an exception.

        The session takes the lock at its start. A lock that is taken at the first write fails if another session has
        written since the first read.
        """
        immediate = self._engine.execution_options(immediate=True)
        with Session(immediate, expire_on_commit=False) as session, session.begin():
            yield session

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()


def store_manifest(session: Session, document: dict) -> str:
    """Store a compiled pipeline, and return its digest."""
    content = json.dumps(document, sort_keys=True, separators=(",", ":"))
    digest = sha256(content.encode()).hexdigest()
    if session.get(Manifest, digest) is None:
        session.add(Manifest(digest=digest, content=content))
        session.flush()
    return digest


def manifest(session: Session, digest: str) -> dict:
    """Return the compiled pipeline with a digest."""
    document: dict[str, Any] = json.loads(session.exec(select(Manifest.content).where(Manifest.digest == digest)).one())
    return document


def delete_unused_manifests(session: Session) -> None:
    """Delete the compiled pipelines that no version, run or recurring run uses."""
    used = union(*(select(table.manifest) for table in (PipelineVersion, Run, RecurringRun)))
    session.exec(delete(Manifest).where(col(Manifest.digest).not_in(used)))


def _add_new_columns(engine: Engine) -> None:
    """Add the columns that the database of an earlier version lacks. Every such column has a default."""
    found = inspect(engine)
    with engine.begin() as connection:
        for table in SQLModel.metadata.sorted_tables:
            known = (
                {column["name"] for column in found.get_columns(table.name)} if found.has_table(table.name) else None
            )
            for column in table.columns:
                if known is not None and column.name not in known:
                    kind = column.type.compile(engine.dialect)
                    default = "'null'" if isinstance(column.type, JSON) else "''"
                    connection.execute(
                        text(f"ALTER TABLE {table.name} ADD COLUMN {column.name} {kind} DEFAULT {default}")
                    )


def _connect(path: Path) -> Engine:
    # In a URL string, `?` and `%` of the path would be read as URL syntax.
    url = URL.create("sqlite", database=str(path))
    engine = create_engine(url, pool_size=48, max_overflow=16, connect_args={"check_same_thread": False})
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    return engine


def _prepare(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # _begin starts transactions; sqlite3 must not start them
    connection.execute(f"PRAGMA busy_timeout={WAIT_FOR_WRITERS_MS}")
    connection.execute("PRAGMA journal_mode=WAL")
    # Many changes at once make the journal long. SQLite shortens the journal at its next use.
    connection.execute(f"PRAGMA journal_size_limit={JOURNAL_BYTES}")
    # This level protects against killed processes. Only a power failure can lose the last commits.
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA foreign_keys=ON")
    # SQLite's own `lower` changes ASCII letters only, and filters compare the results with `str.lower`.
    connection.create_function("lower", 1, _lower, deterministic=True)


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _begin(connection: Connection) -> None:
    immediate = connection.get_execution_options().get("immediate")
    connection.execute(text("BEGIN IMMEDIATE" if immediate else "BEGIN"))
