"""Sessions of people, and whose account is whose, in two tables of our own beside MLflow's.

Every pod sees the same sessions, a logout ends one everywhere, and a thread asks the provider every few minutes whether each
login still holds and which groups the person has. What the browser has is a random text, of which the table has the hash.

It runs in MLflow's pod, where `oidc_login.py` uses it.
"""
# The virtualenv of this checkout has none of these packages.
# pyright: basic, reportMissingImports=false, reportMissingModuleSource=false

import base64
import hashlib
import logging
import secrets
import threading
import time
from collections.abc import Callable
from typing import Any

from accounts import account_name, keep_account
from cryptography.fernet import Fernet, InvalidToken
from mlflow.exceptions import MlflowException
from mlflow.server import auth
from oidc_provider import AwayError, EndedError
from oidc_rules import RefusedError, Visitor
from sqlalchemy import Boolean, Column, Float, MetaData, String, Table, delete, select, text, update
from sqlalchemy.dialects.postgresql import insert

CHECKED = 180
"""Seconds after which the provider is asked again."""
IDLE = 3600
"""Seconds after which a session ends that nobody uses."""
WITHOUT_REFRESH = 300
"""Seconds of a session of which the provider gives no refresh token."""
LOCK = 0x6F696463
"""Key of the PostgreSQL advisory lock under which the tables are made. The value is arbitrary."""

_tables = MetaData()
_sessions = Table(
    "oidc_sessions",
    _tables,
    Column("hash", String(64), primary_key=True),
    Column("account", String(255), nullable=False, index=True),
    Column("refresh_token", String),
    Column("id_token", String, nullable=False),
    Column("checked_at", Float, nullable=False),
    Column("seen_at", Float, nullable=False),
    Column("ends_at", Float, nullable=False),
    # A logout that the browser has not brought to the provider yet.
    Column("is_over", Boolean, nullable=False),
)
_accounts = Table(
    "oidc_accounts",
    _tables,
    Column("account", String(255), primary_key=True),
    Column("issuer", String, nullable=False),
    Column("subject", String, nullable=False),
    Column("claims_at", Float, nullable=False),
    Column("may_enter", Boolean, nullable=False),
)
_logger = logging.getLogger(__name__)


class Sessions:
    """The sessions of all pods."""

    def __init__(
        self,
        key: str,
        hours: int,
        managed_teams: frozenset[str],
        check: Callable[[str], tuple[Visitor, str, str | None]],
    ) -> None:
        """Make the tables if they are not there, and begin to check sessions.

        Args:
            key: text that encrypts the provider's tokens in the table.
            hours: hours after which a session ends.
            managed_teams: teams in which groups decide who is.
            check: takes a refresh token, and returns the person, the ID token and the next refresh token.
        """
        self.cipher = Fernet(base64.urlsafe_b64encode(hashlib.sha256(key.encode()).digest()))
        self._seconds = hours * 3600
        self._managed_teams = managed_teams
        self._check = check
        self._entering = threading.Lock()
        with auth.store.engine.begin() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
            _tables.create_all(connection)
        threading.Thread(target=self._check_for_ever, daemon=True, name="sessions").start()

    def begin(
        self, account: str, id_token: str = "", refresh_token: str | None = None, seconds: float | None = None
    ) -> str:
        """Begin a session and return the text for the cookie."""
        cookie, now = secrets.token_urlsafe(32), time.time()
        lasts = seconds or (self._seconds if refresh_token else WITHOUT_REFRESH)
        row = {
            "hash": _hash(cookie),
            "account": account,
            "refresh_token": refresh_token and self._hidden(refresh_token),
            "id_token": self._hidden(id_token),
            "checked_at": now,
            "seen_at": now,
            "ends_at": now + lasts,
            "is_over": False,
        }
        with auth.store.engine.begin() as connection:
            connection.execute(insert(_sessions).values(row))
        return cookie

    def find(self, cookie: str) -> str | None:
        """Return the account of a session that holds, or None."""
        now = time.time()
        with auth.store.engine.connect() as connection:
            row = connection.execute(select(_sessions).where(_sessions.c.hash == _hash(cookie))).one_or_none()
            if row is None or row.is_over or row.ends_at < now or row.seen_at < now - IDLE:
                return None
            if row.seen_at < now - 60:
                connection.execute(update(_sessions).where(_sessions.c.hash == row.hash).values(seen_at=now))
                connection.commit()
        return row.account

    def end(self, cookie: str) -> None:
        """End a session, whose ID token `forget` returns once more."""
        with auth.store.engine.begin() as connection:
            connection.execute(update(_sessions).where(_sessions.c.hash == _hash(cookie)).values(is_over=True))

    def forget(self, cookie: str, *, only_over: bool = False) -> str | None:
        """Delete a session and return its ID token; None if there is none, or one that is not over."""
        one = delete(_sessions).where(_sessions.c.hash == _hash(cookie)).returning(_sessions.c.id_token)
        with auth.store.engine.begin() as connection:
            row = connection.execute(one.where(_sessions.c.is_over) if only_over else one).one_or_none()
        return row and self._shown(row.id_token)

    def enter(self, visitor: Visitor) -> str:
        """Give a visitor an account, the first time, and the rights of the claims, if they are the newest. Return its name.

        Raises:
            RefusedError: the account belongs to somebody else, or newer claims shut the visitor out.
        """
        name = account_name(visitor.name)
        if name is None or name == account_name(auth.auth_config.admin_username):
            raise RefusedError("The name that the provider tells cannot be one of an account here.")
        known = {
            "issuer": visitor.issuer,
            "subject": visitor.subject,
            "claims_at": visitor.issued_at,
            "may_enter": True,
        }
        # One at a time in a process, because each holds a connection while it needs a second one.
        with self._entering, auth.store.engine.begin() as connection:
            connection.execute(insert(_accounts).values(account=name, **known).on_conflict_do_nothing())
            row = connection.execute(select(_accounts).where(_accounts.c.account == name).with_for_update()).one()
            is_owner = (row.issuer, row.subject) == (visitor.issuer, visitor.subject)
            exists = auth.store.has_user(name)
            if exists and not is_owner:
                raise RefusedError(
                    f"The account {name} belongs to somebody else, who had this name before. An administrator who removes it makes the name free."
                )
            is_newest = visitor.issued_at >= row.claims_at or not is_owner
            if not is_newest and not row.may_enter:
                raise RefusedError("You are in none of the groups that may use MLflow any more.")
            if is_newest or not exists:
                connection.execute(update(_accounts).where(_accounts.c.account == name).values(**known))
                keep_account(name, visitor.is_admin)
                self._keep_teams(name, visitor.teams)
        return name

    def shut_out(self, account: str) -> None:
        """Take an account's rights and end its sessions, because the newest claims do not let it in."""
        with auth.store.engine.begin() as connection:
            newest = {"claims_at": time.time(), "may_enter": False}
            connection.execute(update(_accounts).where(_accounts.c.account == account).values(newest))
            connection.execute(delete(_sessions).where(_sessions.c.account == account))
        if auth.store.has_user(account):
            keep_account(account, is_admin=False)
            self._keep_teams(account, frozenset())

    def _keep_teams(self, account: str, teams: frozenset[str]) -> None:
        user = auth.store.get_user(account)
        has = {role.name: role.id for role in auth.store.list_user_roles(user.id)}
        for team in self._managed_teams:
            if team in has and team not in teams:
                auth.store.unassign_role_from_user(user.id, has[team])
            elif team in teams and team not in has:
                auth.store.assign_role_to_user(user.id, _role(team))

    def _check_for_ever(self) -> None:
        while True:
            time.sleep(20 + secrets.randbelow(10))
            try:
                self.check_some()
            except Exception:
                _logger.exception("sessions could not be checked")

    def check_some(self) -> None:
        """Ask the provider about the sessions whose time has come. Several processes do so at once, each about others."""
        now = time.time()
        due = (
            select(_sessions.c.hash)
            .where(
                _sessions.c.checked_at < now - CHECKED,
                _sessions.c.seen_at > now - IDLE,
                _sessions.c.ends_at > now,
                _sessions.c.refresh_token.is_not(None),
                ~_sessions.c.is_over,
            )
            .limit(50)
            .with_for_update(skip_locked=True)
        )
        with auth.store.engine.begin() as connection:
            connection.execute(
                delete(_sessions).where((_sessions.c.ends_at < now) | (_sessions.c.seen_at < now - IDLE))
            )
            # Whoever takes a session moves its time, so that a process that dies meanwhile leaves it for later.
            taken = update(_sessions).where(_sessions.c.hash.in_(due)).values(checked_at=now).returning(_sessions)
            rows = connection.execute(taken).all()
        for row in rows:
            try:
                self._check_one(row)
            except AwayError as error:
                _logger.error("the session of %r could not be checked, and goes on: %s", row.account, error)
                return

    def _check_one(self, row: Any) -> None:
        try:
            visitor, id_token, refresh_token = self._check(self._shown(row.refresh_token))
            if self.enter(visitor) != row.account:
                raise RefusedError("the name of the account is another one now")
        except EndedError as error:
            _logger.info("the login of %r is over: %s", row.account, error)
            with auth.store.engine.begin() as connection:
                connection.execute(delete(_sessions).where(_sessions.c.hash == row.hash))
        except RefusedError as error:
            _logger.warning("%r may not enter any more: %s", row.account, error)
            self.shut_out(row.account)
        else:
            told = {
                "id_token": self._hidden(id_token),
                "refresh_token": self._hidden(refresh_token or self._shown(row.refresh_token)),
            }
            with auth.store.engine.begin() as connection:
                connection.execute(update(_sessions).where(_sessions.c.hash == row.hash).values(told))

    def _hidden(self, token: str) -> str:
        return self.cipher.encrypt(token.encode()).decode()

    def _shown(self, hidden: str) -> str:
        """Return a token of the table; nothing if another key has hidden it."""
        try:
            return self.cipher.decrypt(hidden.encode()).decode()
        except InvalidToken:
            return ""


def _hash(cookie: str) -> str:
    return hashlib.sha256(cookie.encode()).hexdigest()


def _role(team: str) -> int:
    """Return the id of a team, which is made if there is none of this name."""
    try:
        return auth.store.get_role_by_name("default", team).id
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
    return auth.store.create_role(team, "default").id
