"""Passwords of a stack appear in no output, file or process without need, from the first preview to the destroy."""

import base64
import contextlib
import functools
import gzip
import http.client
import json
import os
import re
import secrets
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from local import paths
from local.stack import PYTHON, LocalStack, any_certificate, basic
from tests import ROOT

pytestmark = pytest.mark.local

# Files of the stack that must have a password. POD stands for the name of any pod.
DATABASE_SECRET = "cluster/objects/Secret/mlflow/postgres-database-secret.json"
ADMIN_SECRET = "cluster/objects/Secret/mlflow/mlflow-auth.json"
LOGIN_INI = "cluster/pods/POD/ini-file/auth_result.ini"
POD_DECLARATION = "supervisor/specs/POD.json"
FLASK_SECRET = "cluster/objects/Secret/mlflow/mlflow-flask-server-secret-key.json"
KEYS_SECRET = "cluster/objects/Secret/mlflow/mlflow-keys.json"
DATABASE_PLACES = {DATABASE_SECRET, LOGIN_INI, POD_DECLARATION}
ADMIN_PLACES = {ADMIN_SECRET, LOGIN_INI}
KEYS_PLACES = {KEYS_SECRET, POD_DECLARATION}

GZIP = b"\x1f\x8b"

_POD = re.compile(r"mlflow(\.mlflow)?-[0-9a-f]{10}-\d+")


def marker(name: str) -> str:
    """Return a password that the settings accept and that appears nowhere else on this machine."""
    return f"{name}_{secrets.token_hex(6)}-{secrets.token_hex(6)}.Zz"


@functools.cache
def forms(secret: str) -> set[bytes]:
    """Return the forms of a secret in a text: unchanged, with escaped characters, in base64 at any offset, in hex."""
    raw = secret.encode()
    texts = {raw, quote(secret).encode(), "".join(c if c.isalnum() else f"%{ord(c):02X}" for c in secret).encode()}
    texts.add(raw.hex().encode())
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        for offset in range(3):
            # The first and the last characters also contain bits of the neighbours, which are unknown.
            length = (offset + len(raw)) // 3 * 4
            texts.add(encode(bytes(offset) + raw)[(0, 2, 3)[offset] : length])
    return texts


def _is_compressed(file: str) -> bool:
    try:
        with Path(file).open("rb") as content:
            return content.read(2) == GZIP
    except OSError:
        return False


@dataclass
class Watched:
    """Passwords by name, with searches for them."""

    passwords: dict[str, str] = field(default_factory=dict[str, str])

    def new(self, name: str) -> str:
        self.passwords[name] = marker(name)
        return self.passwords[name]

    def in_text(self, text: bytes) -> set[str]:
        return {name for name, password in self.passwords.items() if any(form in text for form in forms(password))}

    def in_files(self, files: Iterable[tuple[str, Path]]) -> dict[str, set[str]]:
        """Return the places of each password that is in a file."""
        places: dict[str, set[str]] = {}
        by_name = {str(file): place for place, file in files}
        for file in self._found_by_grep([*by_name]):
            try:
                content = Path(file).read_bytes()
                content = gzip.decompress(content) if content[:2] == GZIP else content
            except (OSError, EOFError):
                # This is a temporary file that no longer exists.
                continue
            for name in self.in_text(content):
                places.setdefault(name, set()).add(by_name[file])
        return places

    def _found_by_grep(self, files: list[str]) -> Iterator[str]:
        """Return the files that have a form of a password or are compressed. It takes 0.2 s for 100 MB and 300 forms, and Python 4."""
        sought = [form for password in self.passwords.values() for form in forms(password)]
        for begin in range(0, len(files), 1000):
            done = subprocess.run(
                ["grep", "-aFlsZ", "-f", "-", "--", *files[begin : begin + 1000]],
                # The passwords come by standard input: an argument is visible in the process list.
                input=b"\n".join(sought),
                capture_output=True,
                env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
                check=False,
            )
            # 2: a file was a socket, or no longer existed.
            assert done.returncode in {0, 1, 2}
            assert done.stderr == b""
            yield from filter(None, done.stdout.decode().split("\0"))
        yield from filter(_is_compressed, files)


class ProcessWatch(threading.Thread):
    """A thread that records the arguments and the environment of every process of this machine until `stop`.

    It can miss a process that lives for a few milliseconds only.
    """

    def __init__(self, temporary: Path) -> None:
        super().__init__(daemon=True)
        self.seen: set[tuple[bytes, bytes]] = set()
        """Arguments and environment of each process."""
        self.temporary = temporary
        self.temporary_files: dict[Path, bytes] = {}
        self._ended = threading.Event()
        self._young: dict[str, int] = {}

    def run(self) -> None:
        # The arguments of a process change only by `exec`, which mostly comes soon after the fork. So a new process is
        # read 40 times, and an old one every 100 rounds.
        turn = 0
        while not self._ended.wait(0.005):
            turn += 1
            pids = {entry.name for entry in os.scandir("/proc") if entry.name.isdigit()}
            for pid in pids:
                looks = self._young.get(pid, 0)
                if looks < 40 or turn % 100 == 0:
                    self._young[pid] = looks + 1
                    self._look_at(Path("/proc", pid))
            self._young = {pid: looks for pid, looks in self._young.items() if pid in pids}
            self._keep_temporary_files()

    def stop(self) -> None:
        self._ended.set()
        self.join()

    def _look_at(self, process: Path) -> None:
        try:
            arguments = (process / "cmdline").read_bytes()
            environment = (process / "environ").read_bytes()
            # Between the two reads the process can have become another program. Then the pair is dropped.
            if arguments and arguments == (process / "cmdline").read_bytes():
                self.seen.add((arguments, environment))
        except OSError:
            return

    def _keep_temporary_files(self) -> None:
        for file in self.temporary.rglob("*"):
            try:
                self.temporary_files[file] = file.read_bytes()
            except OSError:
                continue


@dataclass
class Session:
    """A stack that records the output of every command."""

    stack: LocalStack
    watched: Watched
    shown: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    def local(self, *arguments: str, text: str | None = None, ok: bool = True) -> str:
        return self._run([str(PYTHON), "-m", "local", *arguments], text, ok)

    def pulumi(self, *arguments: str, text: str | None = None, ok: bool = True) -> str:
        return self.local("pulumi", *arguments, text=text, ok=ok)

    def rotate_admin(self) -> None:
        pulumi = f"{PYTHON} -m local pulumi"
        self._run([str(PYTHON), "-m", "operations.rotate_admin", "local", "--pulumi", pulumi], None, ok=True)

    def set_secret(self, path: str, value: str) -> None:
        # The value goes through standard input, as in the documentation: an argument is visible in the process list.
        self.pulumi("config", "set", "--secret", "--path", f"mlflow-eks:{path}", text=value)

    def fails(self, *arguments: str, because: str) -> None:
        said = self.pulumi(*arguments, ok=False)
        assert because in said, said[-3000:]

    def _run(self, command: list[str], text: str | None, ok: bool) -> str:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**self.stack.environment(), "MLFLOW_TRACKING_INSECURE_TLS": "true"},
            # Standard input is never a terminal, so a prompt cannot wait for ever.
            input=text or "",
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        said = done.stdout + done.stderr
        self.shown.append((" ".join(command[3:]), said))
        assert (done.returncode == 0) == ok, f"{' '.join(command)}:\n{said[-4000:]}"
        return said

    def files(self) -> Iterator[tuple[str, Path]]:
        """Return all files in the stack's folder. Every pod has the name POD."""
        for file in self.stack.folder.rglob("*"):
            # The pulumi executable is a link to the one in the tools.
            if file.is_file() and not file.is_symlink() and file.stat().st_nlink == 1:
                yield _POD.sub("POD", str(file.relative_to(self.stack.folder))), file


def generated(stack: LocalStack) -> dict[str, str]:
    """Return the generated passwords and keys of the state.

    This asks the stack itself. The session records what commands print, so it would count these passwords as leaked.
    """
    exported = json.loads(stack.pulumi("stack", "export", "--show-secrets").stdout)
    passwords: dict[str, str] = {}
    for resource in exported["deployment"]["resources"]:
        if resource["type"] == "random:index/randomPassword:RandomPassword":
            passwords[resource["urn"].rpartition("::")[2]] = _plain(resource["outputs"]["result"])
        if resource["type"] == "random:index/randomBytes:RandomBytes":
            key = _plain(resource["outputs"]["base64"])
            passwords[resource["urn"].rpartition("::")[2]] = key.replace("+", "-").replace("/", "_")
    return passwords


def _plain(value: Any) -> Any:
    return json.loads(value["plaintext"]) if isinstance(value, dict) else value


def changed_since(moment: float, *roots: Path) -> Iterator[tuple[str, Path]]:
    """Return the files below some folders that were written since a moment."""
    for root in roots:
        for folder, folders, names in os.walk(root):
            folders[:] = [name for name in folders if name not in {".git", ".venv", "node_modules"}]
            for file in (Path(folder, name) for name in names):
                try:
                    new = not file.is_symlink() and file.is_file() and file.stat().st_mtime >= moment
                except OSError:
                    continue
                if new and file.stat().st_size < 100_000_000:
                    yield str(file), file


def test_a_password_is_nowhere_but_where_it_is_needed(
    own_stack: LocalStack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Files in the user's home and temporary files are then in folders that this test searches.
    monkeypatch.setenv("MLFLOW_EKS_HOME", str(paths.home()))
    for variable in ("HOME", "TMPDIR"):
        (tmp_path / variable).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / variable))
    began = time.time()
    session, watched = Session(own_stack, Watched()), Watched()
    session.watched = watched
    watch = ProcessWatch(tmp_path / "TMPDIR")
    watch.start()
    try:
        live(session, watched)
    finally:
        watch.stop()

    shown = {command: found for command, said in session.shown if (found := watched.in_text(said.encode()))}
    assert shown == {}, "a command has shown a password"

    temporary = {file.name: watched.in_text(content) for file, content in watch.temporary_files.items()}
    assert {name: found for name, found in temporary.items() if found} == {}, "a temporary file had a password"
    elsewhere = changed_since(
        began, tmp_path, paths.tools_dir(), ROOT, Path("/tmp"), Path("/var/tmp"), Path("/dev/shm")
    )
    assert watched.in_files(elsewhere) == {}, "a password was written outside the stack's folder"

    arguments = {program(seen): found for seen, _ in watch.seen if (found := watched.in_text(seen))}
    # The real chart's init container does the same, inside its pod.
    assert arguments.keys() <= {"sed"}, "a password is an argument, which `ps` shows to everybody"
    # Without this, the assertion above would also hold if no process had been seen.
    assert {"pulumi", "postgres", "haproxy", "mlflow"} <= {program(seen) for seen, _ in watch.seen}

    pods = f"HOME={own_stack.folder}/cluster/pods/".encode()
    holders = {environment for _, environment in watch.seen if watched.in_text(environment)}
    assert holders, "the pods have a password in their environment, and no process with one was seen"
    others = {
        program(arguments): watched.in_text(environment)
        for arguments, environment in watch.seen
        if environment in holders and pods not in environment
    }
    assert others == {}, "a process outside the pods has a password in its environment"


def program(arguments: bytes) -> str:
    """Return the name of the program, or of the script that Python runs."""
    words = arguments.decode(errors="replace").split("\0")
    if "-m" in words[:-1]:
        return words[words.index("-m") + 1]
    name = Path(words[0].split(":")[0].split(" ")[0]).name
    return Path(words[1]).name if name.startswith("python") and len(words) > 1 and words[1][:1] != "-" else name


def live(session: Session, watched: Watched) -> None:
    """Run all stages of a stack's life, and search its folder after each."""
    stack = session.stack
    session.local("preview")
    session.set_secret("postgres.masterPassword", watched.new("master"))
    session.set_secret("database.password", watched.new("database"))
    session.set_secret("mlflow.auth.adminPassword", watched.new("admin"))
    session.pulumi("config")
    session.pulumi("config", "--json")
    session.pulumi("preview", "--diff")
    assert watched.in_files(session.files()) == {}, "before the first up"

    session.pulumi("up", "--yes", "--diff")
    watched.passwords |= generated(stack)
    watched.passwords["passphrase"] = (stack.folder / "passphrase").read_text()
    kept = {"passphrase": {"passphrase"}}
    keys = {"mlflow-passphrase": KEYS_PLACES, "mlflow-webhook-key": KEYS_PLACES}
    in_use = {"database": DATABASE_PLACES, "admin": ADMIN_PLACES, **keys}
    assert watched.in_files(session.files()) == kept | in_use, "after the first up"
    for command in (
        ["preview", "--diff"],
        ["preview", "--json"],
        ["stack", "output"],
        ["stack", "output", "--json"],
        ["stack", "export"],
        ["stack", "history", "--json"],
        ["stack"],
    ):
        session.pulumi(*command)
    session.local("status")
    # The search can find a password: this command is asked to show one, and it is found in the output.
    assert watched.passwords["admin"] in stack.pulumi("stack", "output", "adminPassword", "--show-secrets").stdout

    people(stack, watched)
    assert watched.in_files(session.files()) == kept | in_use, "after logins and a new user"

    failures(session, watched)
    assert watched.in_files(session.files()) == kept | in_use, "after failures"
    session.pulumi("refresh", "--yes", "--diff")
    session.pulumi("up", "--yes", "--skip-preview")

    session.rotate_admin()
    watched.passwords["admin after the rotation"] = _admin_password(stack)
    session.set_secret("postgres.masterPassword", watched.new("master-2"))
    session.set_secret("database.password", watched.new("database-2"))
    session.pulumi("config", "set", "--path", "mlflow-eks:database.rotation", "1")
    # The role that becomes active does not exist, so the server refuses the statement that contains the new password.
    with stack.connect(as_master=True) as server:
        server.execute("DROP ROLE mlflow_user_2")
        session.fails("up", "--yes", "--skip-preview", because='role "mlflow_user_2" does not exist')
        server.execute("CREATE ROLE mlflow_user_2 LOGIN")
    # PostgreSQL can log slow statements, so the statement with the new password must be slow once.
    with slowed_down(stack, "mlflow_user_2"):
        session.pulumi("up", "--yes", "--diff")
    watched.passwords |= {f"{name} after the rotation": value for name, value in generated(stack).items()}
    rotated = {"database-2": DATABASE_PLACES, "admin after the rotation": ADMIN_PLACES}
    rotated |= keys | {f"{name} after the rotation": places for name, places in keys.items()}
    assert watched.in_files(session.files()) == kept | rotated, "after the rotations"
    assert stack.get("/", login=("admin", watched.passwords["admin after the rotation"])).status == 200

    session.pulumi("destroy", "--yes", "--diff")
    assert watched.in_files(session.files()) == kept, "after the destroy"


@contextlib.contextmanager
def slowed_down(stack: LocalStack, role: str) -> Iterator[None]:
    """Make the next statement about a role wait for more than a second, and assert that one has waited."""
    waited, over = threading.Event(), threading.Event()
    waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'ALTER ROLE%'"

    def let_go(holder: psycopg.Connection[Any], watcher: psycopg.Connection[Any]) -> None:
        while not over.wait(0.05) and not waited.is_set():
            if watcher.execute(waiting).fetchone():
                time.sleep(1.5)
                waited.set()
        holder.rollback()

    with stack.connect(as_master=True) as holder, stack.connect(as_master=True) as watcher:
        holder.autocommit = False
        holder.execute(SQL("ALTER ROLE {} CONNECTION LIMIT 1").format(Identifier(role)))
        thread = threading.Thread(target=let_go, args=(holder, watcher))
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
    assert waited.is_set(), "no statement had to wait"


def _admin_password(stack: LocalStack) -> str:
    return stack.pulumi("config", "get", "--path", "mlflow-eks:mlflow.auth.adminPassword").stdout.strip()


def people(stack: LocalStack, watched: Watched) -> None:
    """Log in with right and wrong passwords, and create a user, through the Ingress."""
    admin = ("admin", watched.passwords["admin"])
    assert stack.get("/", login=admin).status == 200
    assert stack.get("/", login=("admin", watched.new("mistyped"))).status == 401
    body = json.dumps({"username": "somebody", "password": watched.new("somebody")})
    assert post(stack, "/api/2.0/mlflow/users/create", body, admin) == 200
    assert stack.get("/", login=("somebody", watched.passwords["somebody"])).status == 200
    # The user exists now. MLflow refuses the request, and must not repeat its body in the answer or the log.
    assert post(stack, "/api/2.0/mlflow/users/create", body, admin) == 400


def post(stack: LocalStack, path: str, body: str, login: tuple[str, str]) -> int:
    connection = http.client.HTTPSConnection("localhost", stack.https_port, context=any_certificate(), timeout=30)
    headers: Mapping[str, str] = {"Content-Type": "application/json", "Authorization": basic(login)}
    try:
        connection.request("POST", path, body, headers)
        return connection.getresponse().status
    finally:
        connection.close()


def failures(session: Session, watched: Watched) -> None:
    """Cause a wrong setting and a release that cannot start, and repair both."""
    stack = session.stack
    session.set_secret("mlflow.auth.adminPassword", f"{watched.new('refused')} with spaces")
    session.fails("up", "--yes", because="mlflow.auth.adminPassword must be 12 to 128 characters")
    session.set_secret("mlflow.auth.adminPassword", watched.passwords["admin"])

    with stack.connect(as_master=True) as server:
        server.execute("ALTER ROLE mlflow_user NOLOGIN")
        session.pulumi("config", "set", "--path", "mlflow-eks:mlflow.auth.cacheSeconds", "30")
        session.fails("up", "--yes", "--skip-preview", because="is not permitted to log in")
        session.pulumi("config", "set", "--path", "mlflow-eks:mlflow.auth.cacheSeconds", "60")
        server.execute("ALTER ROLE mlflow_user LOGIN")
