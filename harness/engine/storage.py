"""A study's database, which Optuna's own tools read: SQLite beside the study, or PostgreSQL by URL.

Invariant: a mirror of the records from which nothing is decided, so that its failure stops no trial. What it says that
the records do not is set aside, never deleted: a file is renamed, and on a server the study goes on under the next
number. No password is in a URL. What does not live here: what a condition is told as (study.py).
"""

from __future__ import annotations

import importlib.util
import itertools
import logging
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from harness.engine import proposals
from harness.engine.plan import Plan
from harness.errors import SpecError
from harness.spec import Study

LOG = logging.getLogger(__name__)
CONNECT_SECONDS = 5
ANSWER_MILLISECONDS = 20_000
"""After so long without a sign of the server it is out of reach: a cut cable must not hold the study."""
NOT_NOW = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL)
"""What SQLite answers where nothing is wrong with the file."""
DIALECT = "postgresql+psycopg"
PASSWORD = "give the password in the environment, as PGPASSWORD or in the file that PGPASSFILE names."


class Mirror:
    """What Optuna's tools see of a study."""

    def __init__(self, plan: Plan, url: str | None, optuna: Any) -> None:
        study = plan.setting.sweep
        assert isinstance(study, Study)
        self._place = _File(plan, optuna) if url is None else _Server(plan, url, optuna)
        self._directions = [objective.direction for objective in study.objectives]
        self._num_conditions = study.num_conditions
        self._optuna = optuna
        self._opened: Any = None
        self._is_usable = True
        self._was_said = False

    def show(self, told: Sequence[Any], running: Sequence[Any] = ()) -> None:
        """Bring the database to what was told, and to the conditions that run now.

        One that is unreadable or says otherwise is set aside and rebuilt. A server that does not answer, or a file that
        another process locks, is asked again the next time, and is then told what it missed.
        """
        from sqlalchemy.exc import SQLAlchemyError

        # RuntimeError: tables of another version of Optuna. ValueError: a value in them that cannot be decoded.
        errors = (SQLAlchemyError, self._optuna.exceptions.OptunaError, RuntimeError, ValueError)
        if not self._is_usable:
            return
        try:
            self._bring(told, running)
        except errors as first:
            self._opened = None
            if self._place.is_away(first):
                self._say(first)
                return
            self._place.set_aside(_first_line(first))
            try:
                self._bring(told, running)
            except errors as error:
                self._is_usable = False
                self._say(error)

    def _say(self, error: Exception) -> None:
        if not self._was_said:
            LOG.warning(
                "%s cannot be written (%s); the study goes on, and the next call rebuilds it from the records",
                self._place.name,
                _first_line(error),
            )
        self._was_said = True

    def _bring(self, told: Sequence[Any], running: Sequence[Any]) -> None:
        study = self._opened = self._opened or self._open()
        held = study.get_trials(deepcopy=False)
        self._check(held, told, running)
        for here, trial in zip(held, told, strict=False):
            if here.state == self._optuna.trial.TrialState.RUNNING:
                self._finish(study, here, trial)
        study.add_trials([*told, *running][len(held) :])
        self._free(study, held[len(told) + len(running) :])

    def _check(self, held: Sequence[Any], told: Sequence[Any], running: Sequence[Any]) -> None:
        """Refuse a database that says something else than the records, before anything is written to it.

        Raises:
            ValueError: another condition, or other numbers, stand under a number.
        """
        for number, (here, trial) in enumerate(zip(held, [*told, *running], strict=False)):
            is_open = number >= len(told) or here.state == self._optuna.trial.TrialState.RUNNING
            if _proposal(here) != _proposal(trial) or not (is_open or _numbers(here) == _numbers(trial)):
                raise ValueError(f"what it was told of condition {number} is not what the records say")

    def _finish(self, study: Any, here: Any, trial: Any) -> None:
        """Tell a condition that stands as running, of this call or of one that died."""
        running = self._optuna.trial.Trial(study, here._trial_id)
        for column, excess in trial.constraints.items():
            if column not in here.constraints:
                running.set_constraint(column, excess)
        for step, value in trial.intermediate_values.items():
            running.report(value, step)
        is_pruned = trial.state == self._optuna.trial.TrialState.PRUNED
        study.tell(here.number, None if is_pruned else trial.values, state=trial.state)

    def _free(self, study: Any, later: Sequence[Any]) -> None:
        """Fail what stands as running beyond the study's length: nobody will ever tell it."""
        for here in later:
            is_running = here.state == self._optuna.trial.TrialState.RUNNING
            if is_running and here.number >= self._num_conditions:
                study.tell(here.number, state=self._optuna.trial.TrialState.FAIL)

    def _open(self) -> Any:
        study = self._place.open(self._directions)
        if [direction.name.lower() for direction in study.directions] != self._directions:
            raise ValueError("its directions are not the study's")
        return study


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _proposal(trial: Any) -> tuple[Any, ...]:
    return trial.params, trial.distributions, trial.user_attrs


def _numbers(trial: Any) -> tuple[Any, ...]:
    return trial.state, trial.values, trial.intermediate_values, trial.constraints


class _Place(Protocol):
    """Where the database is."""

    name: str

    def open(self, directions: Sequence[str]) -> Any:
        """Return the study, made where there is none."""
        ...

    def is_away(self, error: Exception) -> bool:
        """Return whether the database was not reached at all, so that nothing is wrong with what it says."""
        ...

    def set_aside(self, why: str) -> None:
        """Keep what is there under another name."""
        ...


class _File:
    """`study.db` beside the study."""

    def __init__(self, plan: Plan, optuna: Any) -> None:
        self._path: Path = plan.folder / "study.db"
        self._study, self._optuna = plan.record.name, optuna
        self.name = str(self._path)

    def open(self, directions: Sequence[str]) -> Any:
        """Return the study, made where there is none."""
        url = f"sqlite:///{self._path.absolute()}"
        return self._optuna.create_study(
            study_name=self._study, storage=url, directions=directions, load_if_exists=True
        )

    def is_away(self, error: Exception) -> bool:
        """Return whether another process locks the file, or its disk is full; one that cannot be read is damaged."""
        origins = (getattr(cause, "orig", None) for cause in (error, error.__cause__, error.__context__))
        return any(getattr(origin, "sqlite_errorcode", None) in NOT_NOW for origin in origins)

    def set_aside(self, why: str) -> None:
        """Rename the file."""
        proposals.set_aside(self._path, why)


class _Server:
    """A study on a PostgreSQL server, named by its folder and definition: other folders' studies may stand beside it.

    One that was set aside keeps its name, and the study goes on under the name with the next number.
    """

    def __init__(self, plan: Plan, url: str, optuna: Any) -> None:
        self._url, self._optuna = checked(url), optuna
        self._stem = f"{plan.folder.name}-{proposals.definition(plan)[:8]}"
        self._number: int | None = None
        self.name = url

    def open(self, directions: Sequence[str]) -> Any:
        """Return the study of the highest number, made where there is none."""
        storage = self._connected()
        if self._number is None:
            taken = {study.study_name for study in storage.get_all_studies()}
            numbers = itertools.takewhile(lambda number: self._named(number) in taken, itertools.count(1))
            self._number = max(numbers, default=1)
        return self._optuna.create_study(
            study_name=self._named(self._number), storage=storage, directions=directions, load_if_exists=True
        )

    def _named(self, number: int) -> str:
        return self._stem if number == 1 else f"{self._stem}-{number}"

    def _connected(self) -> Any:
        from sqlalchemy.exc import IntegrityError, ProgrammingError

        patience = {"connect_timeout": CONNECT_SECONDS, "tcp_user_timeout": ANSWER_MILLISECONDS}
        how = {"connect_args": patience, "pool_pre_ping": True}
        try:
            return self._optuna.storages.RDBStorage(self._url, engine_kwargs=how)
        except (IntegrityError, ProgrammingError):  # another study made the tables in the same moment
            return self._optuna.storages.RDBStorage(self._url, engine_kwargs=how)

    def is_away(self, error: Exception) -> bool:
        """Return whether the server did not answer, refused the user, or has no such database."""
        from sqlalchemy.exc import DBAPIError, OperationalError

        causes = (error, error.__cause__, error.__context__)
        return any(
            isinstance(cause, OperationalError) or (isinstance(cause, DBAPIError) and cause.connection_invalidated)
            for cause in causes
        )

    def set_aside(self, why: str) -> None:
        """Go on under the next number."""
        self._number = (self._number or 1) + 1
        LOG.warning(
            "study %s of %s is left as it is, %s takes its place: %s",
            self._named(self._number - 1),
            self.name,
            self._named(self._number),
            why,
        )


def of_study(plan: Plan, url: str | None) -> str | None:
    """Return the URL of a study's server as its driver wants it; None is the file beside it.

    Raises:
        SpecError: the plan is a sweep's; or as `checked`.
    """
    if url is not None and not isinstance(plan.setting.sweep, Study):
        raise SpecError(
            f"STORAGE is given, but must be a study's alone: {plan.record.name!r} is a sweep; leave it out."
        )
    return None if url is None else checked(url)


def checked(url: str) -> str:
    """Return the URL of a PostgreSQL server as SQLAlchemy wants it.

    Raises:
        SpecError: it is no such URL, it holds a password, or the driver is not installed.
    """
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    rule = "postgresql://user@host:port/database without a password"
    try:
        found = make_url(url)
    except (ArgumentError, ValueError):
        raise SpecError(f"STORAGE is not allowed as given, but must be {rule}; {PASSWORD}") from None
    secret = found.password is not None or any("password" in name.lower() for name in found.query)
    if secret:
        raise SpecError(f"STORAGE holds a password, but must be {rule}; {PASSWORD}")
    if found.drivername not in ("postgresql", DIALECT) or not found.database:
        raise SpecError(f"STORAGE is {url!r}, but must be {rule}; leave it out for study.db, a file beside the study.")
    if importlib.util.find_spec("psycopg") is None:
        raise SpecError("STORAGE needs psycopg, which is not installed; run: pip install -e '.[postgres]'")
    return found.set(drivername=DIALECT).render_as_string(hide_password=True)
