"""The LDAP login is as docs/ldap.md says, with a real directory, a real database and the MLflow of both charts."""

import contextlib
import json
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from components.mlflow_release import DatabaseArgs, LdapArgs, LoginArgs, LoginMode, MlflowReleaseArgs, SiteArgs
from components.mlflow_release.chart_values import mlflow_values
from components.mlflow_release.login_code import CODE, login_code
from local import tools
from tests.local_ldap.servers import (
    ADMINS,
    BASE,
    GROUPS,
    PEOPLE,
    SCHEMAS,
    SLAPD,
    USERS,
    Certificates,
    Database,
    Directory,
    Mlflow,
    active_directory,
    dn_of,
    eventually,
    free_port,
    ldap3_folder,
    server_folder,
)

pytestmark = [
    pytest.mark.local,
    pytest.mark.skipif(
        SLAPD is None or not SCHEMAS.exists(), reason="needs an LDAP server: apt-get install slapd ldap-utils"
    ),
]

LOGIN = "ldap_login:authenticate"
ADMIN = ("admin", "local-admin-password")
ALICE = ("alice", "password of alice")
BOB = ("bob", "password of bob")
CAROL = ("carol", "password of carol")
DAVE = ("dave", "password of dave")
ERIN = ("erin", "password of erin")
FRANK = ("frank", "password of frank")
MALLORY = ("mallory", "password of mallory")
DIRECTORYS_ADMIN = ("admin", "password of the directory's admin")
ODD = {
    name: f"password of {name}" for name in ("paren(s)", "star*", "com\\,ma", "back\\\\slash", "o'brien", "jane doe")
}
PEOPLE_AND_PASSWORDS = dict([ALICE, BOB, CAROL, DAVE, ERIN, FRANK, MALLORY, DIRECTORYS_ADMIN]) | ODD
MEMBERS = {ADMINS: ["alice"], USERS: ["alice", "bob", "carol", "dave", "erin", "frank", "admin", *ODD]}


@dataclass
class Site:
    """One MLflow release with two pods."""

    directory: Directory
    slapd: subprocess.Popen[Any]
    database: Database
    pod: Mlflow
    """A pod that remembers a login for a minute."""
    other: Mlflow
    """A pod that remembers no login. It was started later, as every pod is after a restart."""
    experiment: str
    """Id of an experiment that bob created before `other` was started."""

    def accounts(self) -> dict[str, bool]:
        rows = self.database.query("SELECT username, is_admin FROM users", self.pod.database_name)
        return {name: is_admin == "True" for name, is_admin in rows}


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with server_folder("ldap") as folder:
        yield folder


@pytest.fixture(scope="module")
def certificates(folder: Path) -> Certificates:
    return Certificates.make(folder / "certificates")


@pytest.fixture(scope="module")
def directory(folder: Path, certificates: Certificates) -> Directory:
    directory = Directory(folder / "directory", certificates)
    directory.fill(PEOPLE_AND_PASSWORDS, MEMBERS)
    return directory


@pytest.fixture(scope="module")
def slapd(directory: Directory) -> Iterator[subprocess.Popen[Any]]:
    with directory.serving() as process:
        yield process


@pytest.fixture(scope="module")
def database(folder: Path, certificates: Certificates) -> Iterator[Database]:
    with Database(folder / "database", certificates, "database-password").serving() as database:
        yield database


CHARTS = {"3.15.1": "1.11.5", "3.7.0": "1.8.1"}


@pytest.fixture(scope="module", params=CHARTS)
def site(
    request: pytest.FixtureRequest,
    folder: Path,
    directory: Directory,
    slapd: subprocess.Popen[Any],
    database: Database,
) -> Iterator[Site]:
    version = request.param

    def pod(name: str, cache_seconds: int) -> Mlflow:
        values = release_values(directory, cache_seconds, CHARTS[version])
        return Mlflow(folder / f"{version}-{name}", version, database, values, this_machine(directory), ADMIN[1])

    first, second = pod("pod", 60), pod("other", 0)
    database.query(f"CREATE DATABASE {first.database_name}")
    with first.serving():
        created = first.call(BOB, "experiments/create", name="made before the other pod started")
        with second.serving():
            yield Site(directory, slapd, database, first, second, created.json()["experiment_id"])


def release_values(directory: Directory, cache_seconds: int, chart_version: str = "1.11.5") -> dict[str, Any]:
    """Return the component's values for a release with LDAP."""
    ldap = LdapArgs(
        uri=directory.uri,
        lookup_bind=f"uid=%s,{PEOPLE}",
        group_search_base=GROUPS,
        admin_group_dn=ADMINS,
        user_group_dn=USERS,
    )
    args = MlflowReleaseArgs(
        site=SiteArgs("127.0.0.1", "http://127.0.0.1", ingress_class="haproxy", ingress_namespace="haproxy"),
        database=DatabaseArgs("127.0.0.1", 5432, name="mlflow", user="mlflow_user", password="", networks={}),
        login=LoginArgs(mode=LoginMode.LDAP, cache_seconds=cache_seconds, ldap=ldap),
        chart_version=chart_version,
    )
    return mlflow_values(args, login_code(args), "checksum")


def this_machine(directory: Directory) -> dict[str, str]:
    return {
        "LDAP_CA": str(directory.certificates.authority),
        "PYTHONPATH": f"{CODE}:{ldap3_folder()}",
    }


def test_members_of_the_two_groups_enter_and_get_accounts(site: Site) -> None:
    assert site.pod.status(*ALICE) == 200
    assert site.pod.status(*BOB) == 200
    accounts = site.accounts()
    assert accounts["alice"] is True
    assert accounts["bob"] is False


def test_everybody_else_is_refused_and_gets_no_account(site: Site) -> None:
    before = site.accounts()
    assert site.pod.status(*MALLORY) == 401
    assert site.pod.status("bob", "wrong password") == 401
    assert site.pod.status("bob", "") == 401
    assert site.pod.status("nobody", "password of nobody") == 401
    refused = site.pod.call(None, "experiments/search", max_results=1)
    assert refused.status_code == 401
    assert refused.headers["WWW-Authenticate"].startswith("Basic")
    assert site.accounts() == before


def test_the_first_administrator_is_mlflows_own(site: Site) -> None:
    assert site.pod.status(*ADMIN) == 200
    assert site.pod.call(ADMIN, "users/create", username="x" * 5, password="y" * 20).ok
    assert site.pod.status(*DIRECTORYS_ADMIN) == 401
    assert site.pod.status("Admin", DIRECTORYS_ADMIN[1]) == 401
    # A user that exists in MLflow only is refused. So a person who leaves the directory cannot log in any more.
    assert site.pod.status("x" * 5, "y" * 20) == 401


def test_mlflows_page_offers_no_change_of_a_password_that_the_directory_has(site: Site) -> None:
    answer = requests.get(f"http://127.0.0.1:{site.pod.port}/api/2.0/mlflow/users/current", auth=BOB, timeout=30)
    # MLflow 3.7.0 has no such route, and its page never offers it.
    assert answer.status_code == 404 or answer.json()["is_basic_auth"] is False


def test_one_person_is_one_account_however_the_name_is_typed(site: Site) -> None:
    assert site.other.status("CAROL", CAROL[1]) == 200
    assert site.other.status(" carol ", CAROL[1]) == 200
    assert [name for name in site.accounts() if name.strip().lower() == "carol"] == ["carol"]


def test_names_with_special_characters_enter(site: Site) -> None:
    for name, password in ODD.items():
        typed = name.replace("\\,", ",").replace("\\\\", "\\")
        assert site.other.status(typed, password) == 200, typed


def test_a_name_cannot_change_the_question_to_the_directory(site: Site) -> None:
    before = site.accounts()
    names = [
        "*",
        "bob*",
        "bob)(uid=*",
        "mallory)(|(uniqueMember=*",
        f"bob,{PEOPLE}",
        f"mallory,{PEOPLE})(cn=*",
        "bob\\00",
        "bob\0",
        "%s",
        "b\u200bob",
        "bob\n",
    ]
    for name in names:
        expected = 200 if name == "bob\n" else 401
        assert site.other.status(name, BOB[1]) == expected, name
        assert site.other.status(name, MALLORY[1]) == 401, name
    assert site.accounts() == before


def test_eight_first_requests_at_once_make_one_account(site: Site) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda number: (site.pod, site.other)[number % 2].status(*DAVE), range(8))
    assert set(answers) == {200}
    assert "dave" in site.accounts()


def test_permissions_hold_on_a_pod_that_starts_later(site: Site) -> None:
    path = f"/api/2.0/mlflow/experiments/get?experiment_id={site.experiment}"
    for pod in (site.pod, site.other):
        assert [pod.get(path, login).status_code for login in (BOB, ERIN, ALICE)] == [200, 403, 200]


def test_artifacts_are_behind_the_same_login(site: Site) -> None:
    experiment = site.pod.call(BOB, "experiments/create", name="artifacts").json()["experiment_id"]
    run = site.pod.call(BOB, "runs/create", experiment_id=experiment).json()["run"]["info"]["run_id"]
    path = f"/api/2.0/mlflow-artifacts/artifacts/{experiment}/{run}/artifacts/missing"
    answers = [site.pod.get(path, login).status_code for login in (BOB, ERIN, MALLORY)]
    assert answers[0] not in (401, 403)
    assert answers[1:] == [403, 401]


def test_a_strange_password_is_a_wrong_one_and_shuts_nobody_else_out(site: Site) -> None:
    for password in ("\x01", "\u00ad", "\u200f", "*", "x" * 5000, "é"):
        assert site.other.status("bob", password) == 401, password
        assert site.other.status(*BOB) == 200


def test_a_request_asks_the_directory_once_and_a_remembered_login_not_at_all(site: Site) -> None:
    site.pod.status(*ERIN)
    before = site.directory.binds("erin")
    for _ in range(3):
        assert site.pod.status(*ERIN) == 200
    assert site.directory.binds("erin") == before
    for _ in range(3):
        assert site.other.status(*ERIN) == 200
    assert site.directory.binds("erin") == before + 3


def test_whoever_leaves_the_group_is_out_when_the_login_is_forgotten(site: Site) -> None:
    assert site.pod.status(*ERIN) == site.other.status(*ERIN) == 200
    site.directory.leave(USERS, "erin")
    try:
        assert site.other.status(*ERIN) == 401
        # This pod remembers the login for `cacheSeconds`.
        assert site.pod.status(*ERIN) == 200
        assert site.pod.status("erin", "another password") == 401
    finally:
        site.directory.join(USERS, "erin")


def test_joining_and_leaving_the_admins_changes_the_account(site: Site) -> None:
    site.directory.join(ADMINS, "carol")
    try:
        site.other.status(*CAROL)
        assert site.accounts()["carol"] is True
    finally:
        site.directory.leave(ADMINS, "carol")
    site.other.status(*CAROL)
    assert site.accounts()["carol"] is False


def test_a_login_does_not_write_to_the_database(site: Site) -> None:
    assert site.other.status(*BOB) == 200
    (before,) = site.database.query("SELECT password_hash FROM users WHERE username = 'bob'", site.pod.database_name)
    assert site.other.status(*BOB) == 200
    (after,) = site.database.query("SELECT password_hash FROM users WHERE username = 'bob'", site.pod.database_name)
    assert after == before


def test_a_directory_that_hangs_does_not_take_mlflow_down(site: Site) -> None:
    assert site.pod.status(*BOB) == 200
    path = "/api/2.0/mlflow-artifacts/artifacts/0/x/artifacts/y"
    site.slapd.send_signal(signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(30) as pool:
            # Newer versions serve artifacts from their event loop, so both kinds of request are tested.
            calls = [pool.submit(site.pod.status, "carol", f"{number}") for number in range(15)]
            artifacts = [pool.submit(site.pod.get, path, ("carol", f"{number}")) for number in range(15)]
            slowest = max(_seconds(lambda: site.pod.get("/health", timeout=20)) for _ in _for_seconds(4))
            # The kubelet waits 3 seconds for an answer, and kills a container after five failures.
            assert slowest < 2.9
            assert {call.result() for call in calls} == {503}
            assert {artifact.result().status_code for artifact in artifacts} == {503}
        assert site.pod.status(*BOB) == 200, "a remembered login needs no directory"
        assert site.pod.status(*ADMIN) == 200, "the first administrator needs no directory either"
    finally:
        site.slapd.send_signal(signal.SIGCONT)
    eventually(lambda: site.pod.status(*CAROL) == 200, "the directory is asked again", 20)


def _seconds(action: Any) -> float:
    start = time.monotonic()
    action()
    return time.monotonic() - start


def _for_seconds(seconds: float) -> Iterator[None]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield
        time.sleep(0.1)


def test_no_password_is_in_a_log(site: Site) -> None:
    logs = site.pod.log.read_text() + site.other.log.read_text() + site.directory.log.read_text(errors="replace")
    passwords = [*PEOPLE_AND_PASSWORDS.values(), ADMIN[1], site.database.password, "wrong password"]
    assert [password for password in passwords if password in logs] == []


@dataclass(frozen=True)
class Probe:
    """The answers of the login function by configuration: names of accounts, or statuses of refusals."""

    answers: Mapping[str, list[str | int]]
    referrals_followed: int
    binds_of_frank: int
    active_directory: list[bytes]
    """Messages that Active Directory received."""


@pytest.fixture(scope="module")
def probe(folder: Path, directory: Directory, slapd: subprocess.Popen[Any]) -> Probe:
    active_directory_port = free_port()
    plain = {"LDAP_URI": f"ldap://localhost:{directory.port}"}
    wrong_authority = {"LDAP_CA": str(directory.certificates.other_authority)}
    person = {
        "LDAP_GROUP_SEARCH_BASE_DN": PEOPLE,
        "LDAP_GROUP_SEARCH_FILTER": "(entryDN=%s)",
        "LDAP_GROUP_ATTRIBUTE": "seeAlso",
    }
    configurations: dict[str, tuple[Mapping[str, str], list[tuple[str, str]]]] = {
        "ldaps": ({}, [BOB]),
        "ldaps, wrong authority": (wrong_authority, [BOB]),
        "ldaps, wrong authority, unchecked": ({**wrong_authority, "LDAP_TLS_VERIFY": "none"}, [BOB]),
        "ldaps, wrong name": ({"LDAP_URI": f"ldaps://127.0.0.2:{directory.tls_port}"}, [BOB]),
        "ldap": (plain, [BOB]),
        "ldap, wrong authority": ({**wrong_authority, **plain}, [BOB]),
        "ldap, no TLS": ({**plain, "LDAP_START_TLS": "false"}, [BOB]),
        "groups of the person": (person, [MALLORY, BOB]),
        "group in capitals": ({"LDAP_GROUP_USER_DN": USERS.upper().replace(",", ", ")}, [BOB, MALLORY]),
        "no such base": ({"LDAP_GROUP_SEARCH_BASE_DN": f"ou=nowhere,{BASE}"}, [BOB]),
        "referral": ({"LDAP_GROUP_SEARCH_BASE_DN": "dc=elsewhere"}, [BOB]),
        "Active Directory": (
            {
                "LDAP_URI": f"ldap://127.0.0.1:{active_directory_port}",
                "LDAP_START_TLS": "false",
                "LDAP_LOOKUP_BIND": "%s@example.com",
                "LDAP_GROUP_SEARCH_BASE_DN": BASE,
                "LDAP_GROUP_SEARCH_FILTER": "(userPrincipalName=%s)",
                "LDAP_GROUP_ATTRIBUTE": "memberOf",
            },
            [BOB],
        ),
        "cache of a second": ({"LOGIN_CACHE_SECONDS": "1"}, [FRANK, FRANK, ("sleep", "1.2"), FRANK]),
    }
    settings = {**release_values(directory, 0)["extraEnvVars"], **this_machine(directory)}
    questions = [({**settings, **changes}, logins) for changes, logins in configurations.values()]
    ini = folder / "probe.ini"
    ini.write_text(
        "[mlflow]\ndefault_permission = READ\nadmin_username = admin\nadmin_password = unused-password\n"
        f"database_uri = sqlite:///{folder}/probe.db\nauthorization_function = {LOGIN}\n"
    )
    # Active Directory has the groups in `memberOf`. This directory's schema lacks it, so `seeAlso` is used.
    directory.modify(dn_of("mallory"), f"add: seeAlso\nseeAlso: cn=other,{GROUPS}\nseeAlso: {USERS}")
    with (
        socket.create_server(("127.0.0.1", directory.referral_port)) as elsewhere,
        active_directory(active_directory_port, ADMINS) as asked,
    ):
        answer = subprocess.run(
            [tools.mlflow_python("3.15.1"), Path(__file__).with_name("probe.py")],
            input=json.dumps(questions).encode(),
            env={**this_machine(directory), "HOME": str(folder), "MLFLOW_AUTH_CONFIG_PATH": str(ini)},
            stdout=subprocess.PIPE,
            check=True,
        )
        elsewhere.settimeout(0)
        followed = 0
        with contextlib.suppress(BlockingIOError):
            elsewhere.accept()
            followed = 1
    answers = dict(zip(configurations, json.loads(answer.stdout.splitlines()[-1]), strict=True))
    return Probe(answers, followed, directory.binds("frank"), asked)


def test_ldaps_needs_a_certificate_that_is_right(probe: Probe) -> None:
    assert probe.answers["ldaps"] == ["bob"]
    # With a wrong certificate, the directory counts as unavailable.
    assert probe.answers["ldaps, wrong authority"] == probe.answers["ldaps, wrong name"] == [503]
    assert probe.answers["ldaps, wrong authority, unchecked"] == ["bob"]


def test_ldap_is_encrypted_before_a_password_is_sent(probe: Probe) -> None:
    assert probe.answers["ldap"] == ["bob"]
    assert probe.answers["ldap, wrong authority"] == [503]
    # The directory refuses an unencrypted password.
    assert probe.answers["ldap, no TLS"] == [401]


def test_groups_may_stand_with_the_person(probe: Probe) -> None:
    assert probe.answers["groups of the person"] == ["mallory", 401]


def test_active_directory_binds_and_finds_the_person_by_an_e_mail_like_name(probe: Probe) -> None:
    assert probe.answers["Active Directory"] == ["bob"]
    bind, search = probe.active_directory
    assert b"bob@example.com" in bind
    assert b"userPrincipalName" in search
    assert b"bob@example.com" in search


def test_the_spelling_of_a_groups_dn_does_not_matter(probe: Probe) -> None:
    assert probe.answers["group in capitals"] == ["bob", 401]


def test_nobody_enters_where_no_group_is_found(probe: Probe) -> None:
    assert probe.answers["no such base"] == [401]


def test_a_referral_is_not_followed(probe: Probe) -> None:
    assert probe.answers["referral"] == [401]
    assert probe.referrals_followed == 0, "the password would have gone to another server"


def test_a_login_is_forgotten_after_its_time(probe: Probe) -> None:
    assert probe.answers["cache of a second"] == ["frank"] * 3
    assert probe.binds_of_frank == 2
