"""Access to the site with every MLflow version: routes without a login, what belongs to others, foreign sites, ports."""

import contextlib
import fnmatch
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import yaml
from psycopg import sql

from components.mlflow_release.pod_code import request_rules
from local.charts.mlflow import APP_VERSIONS
from local.stack import LocalStack, new_stack
from local.supervisor.client import Supervisor
from tests.local import strangers
from tests.local.sites import Login, Site, routes
from tests.local.strangers import READER, STRANGER, Finding, Victim

pytestmark = pytest.mark.local

HERE = Path(__file__).parent
GUIDES_CHART, GUIDES_MLFLOW = "1.8.1", APP_VERSIONS["1.8.1"]
DEFAULT_MLFLOW = APP_VERSIONS["1.11.5"]
NEWEST_MLFLOW = "3.17.2"
FOREIGN_ORIGIN = "https://evil.example"


@contextlib.contextmanager
def stack_with(name: str, **settings: str | bool) -> Iterator[LocalStack]:
    """A stack with other settings from its first `up`. MLflow refuses the tables of a newer version."""
    with new_stack(name) as new:
        new.up(**settings)
        yield new


@pytest.fixture(scope="module")
def guides_stack() -> Iterator[LocalStack]:
    """A stack with the chart of the manual guide."""
    with stack_with("guide", mlflow__chartVersion=GUIDES_CHART) as new:
        yield new


@pytest.fixture(scope="module")
def newest_stack() -> Iterator[LocalStack]:
    """A stack with a newer MLflow than the default chart's, by `mlflow.image`, and with the gateway."""
    with stack_with("newest", mlflow__image__tag=NEWEST_MLFLOW, mlflow__gateway=True) as new:
        yield new


@pytest.fixture(scope="module", params=[DEFAULT_MLFLOW, GUIDES_MLFLOW, NEWEST_MLFLOW])
def site(request: pytest.FixtureRequest) -> Site:
    stacks = {DEFAULT_MLFLOW: "stack", GUIDES_MLFLOW: "guides_stack", NEWEST_MLFLOW: "newest_stack"}
    return Site(request.getfixturevalue(stacks[request.param]), request.param)


@pytest.fixture(scope="module")
def default_site(stack: LocalStack) -> Site:
    return Site(stack, DEFAULT_MLFLOW)


def harmless(route: str) -> str:
    """Return the path of a route. Each parameter has a value that names nothing."""
    return re.sub(r"<[^>]+>|\{[^}]+\}", "none-such", route)


def open_routes(version: str) -> dict[str, str]:
    """Return the routes without a login, as method and path, to the reason. An entry of one version has it in front."""
    listed = yaml.safe_load((HERE / "open_routes.yaml").read_text())
    return {
        route.removeprefix(f"{version} "): reason
        for route, reason in listed.items()
        if not route[0].isdigit() or route.startswith(version)
    }


def test_every_route_that_is_not_listed_asks_for_a_login(site: Site) -> None:
    # At the pod, because HAProxy refuses these requests before MLflow sees them.
    pod, outside, open_now, open_outside, walked = (
        site.connect(site.pods[0]),
        site.connect(),
        dict[str, int](),
        set[str](),
        0,
    )
    for route, methods, _ in routes(site.mlflow):
        for method in methods:
            body = b"" if method in {"PATCH", "POST", "PUT"} else None
            status, _ = pod.ask(method, harmless(route), body=body, Host="mlflow.mlflow.svc")
            walked += 1
            if status != 401:
                open_now[f"{method} {route}"] = status
            if outside.ask(method, harmless(route), body=body)[0] != 401:
                open_outside.add(f"{method} {route}")
    print(f"MLflow {site.mlflow}: {len(routes(site.mlflow))} routes, {walked} requests, {len(open_now)} open")
    assert walked > 600
    expected = open_routes(site.mlflow)
    unlisted = {request: status for request, status in open_now.items() if request not in expected}
    assert unlisted == {}, "open without a login and not in open_routes.yaml"
    assert expected.keys() - open_now.keys() == set(), "in open_routes.yaml, and asks for a login"
    assert open_outside <= open_now.keys(), "open at the site, and asks for a login at the pod"


@pytest.mark.parametrize("file", ["open_routes.yaml", "administrators_routes.yaml"])
def test_every_reason_in_a_list_of_routes_is_a_sentence(file: str) -> None:
    for route, reason in yaml.safe_load((HERE / file).read_text()).items():
        assert len(reason.split()) > 3, f"{route} is in {file} for no reason"


@pytest.mark.parametrize("version", [DEFAULT_MLFLOW, GUIDES_MLFLOW, NEWEST_MLFLOW])
def test_every_route_has_a_rule_or_is_listed_as_the_administrators(version: str) -> None:
    listed = yaml.safe_load((HERE / "administrators_routes.yaml").read_text())
    ruled = request_rules.PUBLIC | request_rules.FILTERED | request_rules.MLFLOWS | request_rules.OWN.keys()
    unknown = set[str]()
    for path, methods, _ in routes(version):
        for method in set(methods) - {"HEAD", "OPTIONS"}:
            route = request_rules.route(method, re.sub(r"\{[^}]+\}", "<x>", path))
            if route not in ruled and not any(fnmatch.fnmatch(route.split(" ", 1)[1], pattern) for pattern in listed):
                unknown.add(route)
    unprotected = {"GET health", "GET static-files/*"}
    assert unknown - unprotected == set(), "new routes: give them a rule, or list them with a reason"


def database(stack: LocalStack) -> strangers.Rows:
    """Return a function that reads every row of MLflow's database."""
    connection = stack.connect()

    def rows() -> frozenset[tuple[str, str]]:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT tablename FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
            )
            rows_of = sql.SQL("SELECT {}, to_jsonb(t)::text FROM {} t")
            tables = [rows_of.format(sql.Literal(name), sql.Identifier(name)) for (name,) in cursor.fetchall()]
            cursor.execute(sql.SQL(" UNION ALL ").join(tables))
            return frozenset(cursor.fetchall())

    return rows


@pytest.fixture(scope="module")
def victims(site: Site) -> tuple[Victim, Victim]:
    """Two experiments of somebody, with all that can be in them. READER may read the first one and its model."""
    ask = strangers.asker(site.connect())
    shared, private = (strangers.make_victim(ask, site.admin, name) for name in ("shared", "private"))
    names, reader = shared.names, READER[0]
    if site.mlflow == GUIDES_MLFLOW:
        grants = [
            ("2.0/mlflow/experiments/permissions/create", {"experiment_id": names["experiment_id"]}),
            ("2.0/mlflow/registered-models/permissions/create", {"name": names["name"]}),
        ]
    else:
        grants = [
            (
                "3.0/mlflow/users/permissions/grant",
                {"resource_type": "experiment", "resource_id": names["experiment_id"]},
            ),
            ("3.0/mlflow/users/permissions/grant", {"resource_type": "registered_model", "resource_id": names["name"]}),
        ]
    for path, what in grants:
        status, text = ask("POST", f"/api/{path}", site.admin, what | {"username": reader, "permission": "READ"}, {})
        assert status == 200, text
    return shared, private


def accepted(finding: Finding) -> bool:
    # MLflow makes an experiment's first two label schemas when somebody first lists them, and a reader may list them.
    return finding.what.startswith("a row of label_schemas new") and "label-schemas/list" in finding.call


@pytest.mark.parametrize("who", [STRANGER, READER], ids=["no permission", "READ"])
def test_no_route_shows_or_changes_what_is_somebody_elses(
    site: Site, victims: tuple[Victim, Victim], who: Login
) -> None:
    ask = strangers.asker(site.connect())
    files = [f"/get-artifact?run_uuid={victim.names['run_id']}&path=note.txt" for victim in victims]
    before = [ask("GET", file, strangers.VICTIM, None, {}) for file in files]
    named = victims if who == READER else victims[1:]
    secret = f"{strangers.SECRET}-of-private" if who == READER else strangers.SECRET
    found, statuses = strangers.walk(ask, database(site.stack), routes(site.mlflow), who, named, secret)
    let_in = sum(status < 300 for status in statuses.values())
    print(f"MLflow {site.mlflow}, {who[0]}: {len(statuses)} calls, {let_in} let in, {len(found)} findings")
    assert [str(finding) for finding in found if not accepted(finding)] == []
    assert [ask("GET", file, strangers.VICTIM, None, {}) for file in files] == before
    assert [status for status, _ in before] == [200, 200]
    assert {call: status for call, status in statuses.items() if status in {500, 502}} == {}
    # Otherwise the calls would prove nothing: a reader gets what is shared.
    assert let_in > (80 if who == READER else 15)


def test_another_spelling_of_a_route_opens_nothing(default_site: Site) -> None:
    connection, opened = default_site.connect(), dict[str, int]()
    for route, methods, framework in routes(DEFAULT_MLFLOW):
        path = harmless(route)
        if framework == "flask" and not route.endswith("experiments/search"):
            # Flask checks the login before it looks at the path, so one of its routes is enough. FastAPI's routes are
            # protected one by one.
            continue
        first = path[1:]
        spellings = [f"{path}/", path.removesuffix("/"), f"//{first}", f"/%{ord(first[0]):x}{first[1:]}", path.upper()]
        spellings += [
            f"/health/..{path}",
            f"/static-files/..{path}",
            f"{path}?x=/health",
            f"{path};/health",
            f"{path}%2f",
        ]
        for spelling in spellings:
            for method in methods:
                status, _ = connection.ask(method, spelling or "/", body=b"" if method != "GET" else None)
                if status not in {301, 307, 308, 401, 404, 405}:
                    opened[f"{method} {spelling}"] = status
    assert {request: status for request, status in opened.items() if not request.startswith("OPTIONS ")} == {}


@pytest.mark.parametrize("path", ["/v1/traces", "/%761/tr%61ces", "/ajax-api/3.0/jobs/", "/ajax-api/3.0/jobs/search"])
def test_what_the_guides_version_would_answer_under_uvicorn_is_behind_the_login(
    guides_stack: LocalStack, path: str
) -> None:
    site = Site(guides_stack, GUIDES_MLFLOW)
    assert site.connect().ask("POST", path, body=b"")[0] == 401
    # With a login, too, these routes are not there: under gunicorn they do not exist.
    assert site.connect().ask("POST", path, site.admin, b"")[0] in {404, 405}


def test_the_guides_version_keeps_the_traces_of_mlflows_clients(guides_stack: LocalStack) -> None:
    # Clients try /v1/traces first. If that route refuses a trace, they store it as an artifact.
    trace = (
        "import mlflow\n"
        "mlflow.set_experiment('traces')\n"
        "with mlflow.start_span('outer') as span:\n"
        "    span.set_inputs({'question': 'why'})\n"
        "    with mlflow.start_span('inner'):\n"
        "        pass\n"
        "mlflow.flush_trace_async_logging()\n"
        "found = mlflow.get_trace(mlflow.get_last_active_trace_id())\n"
        "print(sorted(span.name for span in found.data.spans))"
    )
    for version in (GUIDES_MLFLOW, DEFAULT_MLFLOW):
        assert guides_stack.client(trace, version=version) == "['inner', 'outer']"


@dataclass(frozen=True)
class Own:
    """A person with an experiment, a run, a trace and a model, who asks for what is the victim's."""

    ask: strangers.Ask
    experiment: str
    run: str
    trace: str
    model: str

    def send(
        self, method: str, path: str, body: Mapping[str, object] | bytes | None = None, **headers: str
    ) -> tuple[int, str]:
        status, text = self.ask(method, path, STRANGER, body, headers)
        return status, text.decode()

    def post(self, path: str, **body: object) -> tuple[int, str]:
        return self.send("POST", f"/api/{path}", body)


@pytest.fixture(scope="module")
def own(site: Site, victims: tuple[Victim, Victim]) -> Own:
    assert victims[0].names
    start = Own(strangers.asker(site.connect()), "", "", "tr-of-a-stranger", "model-of-a-stranger")

    def make(path: str, **body: object) -> Any:
        status, text = start.post(path, **body)
        assert status == 200, text
        return json.loads(text)

    experiment = make("2.0/mlflow/experiments/create", name="of-a-stranger")["experiment_id"]
    made = replace(
        start,
        experiment=experiment,
        run=make("2.0/mlflow/runs/create", experiment_id=experiment)["run"]["info"]["run_id"],
    )
    make("3.0/mlflow/traces", trace=trace(made))
    make("2.0/mlflow/registered-models/create", name=made.model)
    return made


def trace(own: Own, **more: object) -> dict[str, object]:
    location = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": own.experiment}}
    info = {"trace_id": own.trace, "trace_location": location, "request_time": "2026-01-01T00:00:00Z", "state": "OK"}
    return {"trace_info": info | more}


def test_an_object_that_is_named_twice_must_be_ones_own_both_times(own: Own, victims: tuple[Victim, Victim]) -> None:
    foreign = victims[1].names
    upload = "/ajax-api/2.0/mlflow/upload-artifact?path=note.txt"
    assert own.send("POST", f"{upload}&run_uuid={own.run}", b"mine")[0] == 200
    for query in (
        f"run_id={own.run}&run_uuid={foreign['run_id']}",
        f"run_uuid={own.run}&run%5Fuuid={foreign['run_id']}",
    ):
        assert own.send("POST", f"{upload}&{query}", b"not mine")[0] == 403
    metric = {"key": "loss", "value": 1, "timestamp": 1}
    assert own.post("2.0/mlflow/runs/log-metric", run_id=own.run, **metric)[0] == 200
    assert own.post("2.0/mlflow/runs/log-metric", run_id=own.run, runId=foreign["run_id"], **metric)[0] == 403
    linked = [metric | {"step": 0, "model_id": foreign["model_id"]}]
    assert own.post("2.0/mlflow/runs/log-batch", run_id=own.run, metrics=linked)[0] == 403


def test_a_model_comes_only_from_what_its_owner_may_read(own: Own, victims: tuple[Victim, Victim]) -> None:
    foreign = victims[1].names
    folder = f"{foreign['experiment_id']}/{foreign['run_id']}/artifacts"
    for source in (
        f"mlflow-artifacts:/{folder}",
        f"mlflow-artifacts:/{own.experiment}/../{folder}",
        f"mlflow-artifacts:/{own.experiment}/%2e%2e/{folder}",
        f"mlflow-artifacts://elsewhere/{own.experiment}/x",
        f"runs:/{foreign['run_id']}/model",
        f"models:/{foreign['model_id']}",
        f"models:/{foreign['name']}/1",
        f"models:/{foreign['name']}@written",
        "file:///etc",
        "/etc",
        "s3://another-bucket/x",
    ):
        status, text = own.post("2.0/mlflow/model-versions/create", name=own.model, source=source)
        assert (status, json.loads(text)["error_code"]) == (403, "PERMISSION_DENIED"), source
    for source in (f"mlflow-artifacts:/{own.experiment}/{own.run}/artifacts", f"runs:/{own.run}/model"):
        assert own.post("2.0/mlflow/model-versions/create", name=own.model, source=source, run_id=own.run)[0] == 200
    own_source = f"runs:/{own.run}/model"
    versions = "2.0/mlflow/model-versions/create"
    assert own.post(versions, name=own.model, source=own_source, run_id=foreign["run_id"])[0] == 403


def test_a_trace_stays_where_it_is(site: Site, own: Own, victims: tuple[Victim, Victim]) -> None:
    foreign = victims[1].names["trace_id"]
    for tag in ("mlflow.artifactLocation", "mlflow.trace.spansLocation"):
        body = {"key": tag, "value": "file:///etc"}
        assert own.send("PATCH", f"/api/3.0/mlflow/traces/{own.trace}/tags", body)[0] == 403
        elsewhere = trace(own, trace_id=f"{own.trace}-2", tags={tag: "file:///etc"})
        assert own.post("3.0/mlflow/traces", trace=elsewhere)[0] == 403
    assert own.send("PATCH", f"/api/3.0/mlflow/traces/{own.trace}/tags", {"key": "mine", "value": "x"})[0] == 200
    assert own.post("3.0/mlflow/traces", trace=trace(own, trace_id=foreign))[0] == 403

    def export(trace_id: str, **headers: str) -> int:
        span = {
            "traceId": trace_id,
            "spanId": "00000000000000aa",
            "name": "x",
            "startTimeUnixNano": "1",
            "endTimeUnixNano": "2",
        }
        body = {"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}
        return own.send("POST", "/v1/traces", body, **{"X-Mlflow-Experiment-Id": own.experiment, **headers})[0]

    if site.mlflow == GUIDES_MLFLOW:
        assert export("0" * 31 + "1") == 404
    else:
        assert export(foreign.removeprefix("tr-")) == 403
        assert export("0" * 31 + "1") == 200
        # MLflow links the trace to the run of this header, whoever it belongs to.
        assert export("0" * 31 + "2", **{"X-Mlflow-Run-Id": victims[1].names["run_id"]}) == 403


@pytest.mark.parametrize("parameter", ["artifact_location", "artifactLocation"])
def test_nobody_chooses_where_artifacts_are(own: Own, parameter: str) -> None:
    for location in ("file:///tmp/x", "s3://another-bucket/x", "mlflow-artifacts:/1"):
        status, text = own.post("2.0/mlflow/experiments/create", name=f"at-{location}", **{parameter: location})
        assert (status, json.loads(text)["error_code"]) == (400, "INVALID_PARAMETER_VALUE")


def test_graphql_shows_what_its_reader_may_read(own: Own, victims: tuple[Victim, Victim]) -> None:
    foreign = victims[1].names
    for query in (
        f'{{ mlflowGetRun(input: {{runId: "{foreign["run_id"]}"}}) {{ run {{ data {{ params {{ value }} }} }} }} }}',
        f'{{ mlflowGetExperiment(input: {{experimentId: "{foreign["experiment_id"]}"}}) {{ experiment {{ name }} }} }}',
        '{ mlflowSearchModelVersions(input: {filter: ""}) { modelVersions { name description } } }',
        f'mutation {{ mlflowSearchRuns(input: {{experimentIds: ["{foreign["experiment_id"]}", "{own.experiment}"]}}) '
        "{ runs { info { runName experimentId } } } }",
    ):
        status, text = own.send("POST", "/graphql", {"query": query})
        assert status == 200
        assert strangers.SECRET not in text
        assert foreign["name"] not in text
    mine = f'{{ mlflowGetRun(input: {{runId: "{own.run}"}}) {{ run {{ info {{ runId }} }} }} }}'
    assert own.run in own.send("POST", "/graphql", {"query": mine})[1]


@pytest.mark.parametrize(
    "header", ["Bearer x", "Digest x", "rubbish", "Basic", "Basic x", "Basic dmljdGlt", "Basic YQBiOmM="]
)
@pytest.mark.parametrize("path", ["/", "/v1/traces"])
def test_what_is_no_password_gets_a_clean_401(site: Site, header: str, path: str) -> None:
    for pod in (None, *site.pods):
        connection = site.connect(pod)
        name = "localhost" if pod is None else "mlflow.mlflow.svc"
        status, _ = connection.ask("GET", path, Host=name, Authorization=header)
        assert status == 401
        assert 'Basic realm="mlflow"' in connection.headers["WWW-Authenticate"]


def test_an_old_password_and_a_removed_user_count_at_once(site: Site) -> None:
    connection, path = site.connect(), "/api/2.0/mlflow/experiments/search?max_results=1"
    leaver = "leaver", "a-password-of-a-leaver"
    account = {"username": leaver[0], "password": leaver[1]}
    assert connection.ask("POST", "/api/2.0/mlflow/users/create", site.admin, account)[0] == 200
    assert [connection.ask("GET", path, leaver)[0] for _ in range(4)] == [200] * 4
    changed = account | {"password": "another-password-1"}
    assert connection.ask("PATCH", "/api/2.0/mlflow/users/update-password", site.admin, changed)[0] == 200
    assert [connection.ask("GET", path, leaver)[0] for _ in range(4)] == [401] * 4
    assert connection.ask("GET", path, (leaver[0], changed["password"]))[0] == 200
    assert connection.ask("DELETE", "/api/2.0/mlflow/users/delete", site.admin, {"username": leaver[0]})[0] == 200
    assert connection.ask("GET", path, (leaver[0], changed["password"]))[0] == 401


def test_the_work_of_an_ordinary_user_goes_on(site: Site) -> None:
    worker = {"username": "worker", "password": "a-password-of-a-worker"}
    assert site.connect().ask("POST", "/api/2.0/mlflow/users/create", site.admin, worker)[0] == 200
    script = (HERE / "ordinary_work.py").read_text()
    done = site.stack.client(script, user="worker", password=worker["password"], version=site.mlflow)
    assert done == "all of it"


@pytest.mark.parametrize("api", ["api", "ajax-api"])
def test_a_page_of_another_site_cannot_write(default_site: Site, api: str) -> None:
    connection, name = default_site.connect(), f"written-by-another-site-{api}"
    create, body = f"/{api}/2.0/mlflow/experiments/create", {"name": name}
    find = f"/api/2.0/mlflow/experiments/get-by-name?experiment_name={quote(name)}"
    for content_type in ("application/json", "text/plain", "application/x-www-form-urlencoded"):
        # A browser sends the last two content types without a preflight request.
        sent = {"Origin": FOREIGN_ORIGIN, "Content_Type": content_type}
        assert connection.ask("POST", create, default_site.admin, body, **sent)[0] == 403
    assert connection.ask("GET", find, default_site.admin)[0] == 404
    assert connection.ask("POST", create, default_site.admin, body, Origin=default_site.stack.url)[0] == 200


def test_the_guides_version_lets_a_page_of_another_site_write_and_the_warning_says_so(guides_stack: LocalStack) -> None:
    site = Site(guides_stack, GUIDES_MLFLOW)
    statuses = {
        api: site.connect().ask(
            "POST",
            f"/{api}/2.0/mlflow/experiments/create",
            site.admin,
            {"name": f"foreign-{api}"},
            Origin=FOREIGN_ORIGIN,
        )[0]
        for api in ("api", "ajax-api")
    }
    assert statuses == {"api": 403, "ajax-api": 200}


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1", "mlflow.evil.example:5000"])
def test_an_unknown_host_gets_nothing(site: Site, host: str) -> None:
    path = "/api/2.0/mlflow/experiments/search?max_results=1"
    assert site.connect().ask("GET", path, site.admin, Host=host)[0] == 404
    assert site.pods
    for pod in site.pods:
        assert site.connect(pod).ask("GET", path, site.admin, Host=host)[0] == 403
        assert site.connect(pod).ask("GET", path, site.admin, Host="mlflow.mlflow.svc")[0] == 200


def listening(pids: set[int]) -> set[tuple[str, int]]:
    """Return address and port of every TCP socket on which these processes accept connections."""
    sockets = set[str]()
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            target = str(descriptor.readlink()) if descriptor.is_symlink() else ""
            sockets |= set(re.findall(r"^socket:\[(\d+)\]$", target))
    addresses = set[tuple[str, int]]()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            address, _, port = words[1].partition(":")
            if words[3] == "0A" and words[9] in sockets:
                words_of_address = [
                    bytes.fromhex(address[start : start + 8])[::-1] for start in range(0, len(address), 8)
                ]
                found = ip_address(b"".join(words_of_address))
                # A process that also speaks IPv6, such as the plugin server, has its IPv4 addresses mapped.
                found = getattr(found, "ipv4_mapped", None) or found
                addresses.add((str(found), int(port, 16)))
    return addresses


def family(pid: int) -> set[int]:
    """Return the ids of a process and all its descendants."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {pid}.union(*(family(int(child)) for child in children))


def test_haproxy_listens_on_the_two_published_ports_and_that_of_its_metrics_and_nothing_else(
    default_site: Site,
) -> None:
    stack = default_site.stack
    (haproxy,) = (one for one in Supervisor(stack.folder).list() if "kubernetes-ingress" in one.name)
    assert haproxy.pid
    metrics = Supervisor(stack.folder).free_port(f"{haproxy.name}.stat")
    ports = {stack.http_port, stack.https_port, metrics}
    assert listening(family(haproxy.pid)) == {("127.0.0.1", port) for port in ports}


def test_everything_listens_on_loopback_only(default_site: Site) -> None:
    pids = [one.pid for one in Supervisor(default_site.stack.folder).list() if one.pid]
    assert len(pids) >= 4
    sockets = listening(set[int]().union(*(family(pid) for pid in pids)))
    assert len(sockets) >= 5
    assert {address for address, _ in sockets} == {"127.0.0.1"}
