"""A stand-in for the part of GitHub's API that the workflows and `make bootstrap` use."""

import io
import itertools
import json
import re
import subprocess
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

REPOSITORY = "acme/mlflow-eks"
TOKEN = "a-token-of-the-job"
BOT = "github-actions[bot]"
NOT_FOUND = (404, {"message": "Not Found"})

Query = Mapping[str, str]
Reply = tuple[int, Any]


@dataclass
class GitHubServer:
    """The repository as GitHub knows it. Tests fill and read the fields."""

    git: Path | None = None
    """Clone whose commits are compared."""
    url: str = ""
    users: dict[str, int] = field(default_factory=lambda: {"ada": 11, "bob": 12})
    pulls: list[dict[str, Any]] = field(default_factory=list)
    """Pull requests, as the API gives them."""
    runs: list[dict[str, Any]] = field(default_factory=list)
    artifacts: list[dict[str, Any]] = field(default_factory=list)
    """Artifacts, with their content under `files`."""
    comments: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    issues: list[dict[str, Any]] = field(default_factory=list)
    environments: dict[str, dict[str, Any]] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    """Variables by their path and name."""
    without_reviewers: bool = False
    """True for a plan that has no required reviewers."""
    requests: list[str] = field(default_factory=list)
    """Method and path of each request."""
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1000))

    def add_artifact(self, run: int, name: str, files: Mapping[str, str], **changes: Any) -> None:
        """Keep an artifact, in the place of one of the same run and name."""
        self.artifacts = [each for each in self.artifacts if (each["run"], each["name"]) != (run, name)]
        number = next(self.numbers)
        made = {
            "id": number,
            "run": run,
            "name": name,
            "files": dict(files),
            "expired": False,
            "created_at": f"2026-01-01T00:00:00.{number:06}Z",
            **changes,
        }
        self.artifacts.insert(0, made)

    def add_run(self, number: int, **changes: Any) -> dict[str, Any]:
        """Note a run, or change it."""
        found = next((run for run in self.runs if run["id"] == number), None)
        if found is None:
            found = {
                "id": number,
                "path": ".github/workflows/preview.yml",
                "head_sha": "",
                "head_repository": {"full_name": REPOSITORY},
                "html_url": f"https://github.com/{REPOSITORY}/actions/runs/{number}",
                "status": "in_progress",
                "conclusion": None,
            }
            self.runs.insert(0, found)
        found.update(changes)
        return found

    def answer(self, method: str, path: str, query: Query, body: Any) -> Reply:
        """Return status and content for a request below the repository."""
        for pattern, handler in ROUTES.items():
            wanted, _, shape = pattern.partition(" ")
            match = re.fullmatch(shape, path)
            if wanted == method and match:
                return handler(self, query, body, *match.groups())
        return NOT_FOUND

    # Handlers

    def commit_pulls(self, query: Query, _: Any, commit: str) -> Reply:
        return 200, [pull for pull in self.pulls if commit in (pull.get("merge_commit_sha"), *pull.get("commits", []))]

    def list_runs(self, query: Query, _: Any) -> Reply:
        return 200, {"workflow_runs": [run for run in self.runs if run["head_sha"] == query["head_sha"]]}

    def run_attempt(self, query: Query, _: Any, run: str, attempt: str) -> Reply:
        found = next((each for each in self.runs if each["id"] == int(run)), None)
        if found is None:
            return NOT_FOUND
        # An earlier attempt is over when a later one runs.
        over = int(attempt) < int(found.get("run_attempt", 1))
        return 200, {**found, **({"status": "completed", "conclusion": "cancelled"} if over else {})}

    def list_artifacts(self, query: Query, _: Any, run: str | None = None) -> Reply:
        found = [
            {key: value for key, value in each.items() if key != "files"}
            for each in self.artifacts
            if each["name"] == query["name"] and (run is None or each["run"] == int(run))
        ]
        return 200, {"artifacts": found}

    def download(self, query: Query, _: Any, number: str) -> Reply:
        found = next((each for each in self.artifacts if each["id"] == int(number)), None)
        return NOT_FOUND if found is None else (302, f"{self.url}/storage/{number}")

    def compare(self, query: Query, _: Any, base: str, head: str) -> Reply:
        def git(*arguments: str) -> str:
            return subprocess.run(
                ["git", *arguments], cwd=self.git, capture_output=True, text=True, check=True
            ).stdout.strip()

        first, last = git("rev-parse", base), git("rev-parse", head)
        merged = git("merge-base", first, last)
        if first == last:
            status = "identical"
        else:
            status = "ahead" if merged == first else "behind" if merged == last else "diverged"
        commits = [{"sha": sha} for sha in git("rev-list", "--reverse", f"{first}..{last}").split()]
        files = [{"filename": name} for name in git("diff", "--name-only", f"{first}...{last}").split()]
        return 200, {"status": status, "commits": commits, "files": files}

    def list_comments(self, query: Query, _: Any, pull: str) -> Reply:
        return 200, _page(self.comments.get(int(pull), []), query)

    def new_comment(self, query: Query, body: Any, pull: str) -> Reply:
        made = {"id": next(self.numbers), "user": {"login": BOT}, "body": body["body"]}
        self.comments.setdefault(int(pull), []).append(made)
        return 201, made

    def change_comment(self, query: Query, body: Any, number: str) -> Reply:
        for each in itertools.chain.from_iterable(self.comments.values()):
            if each["id"] == int(number):
                each.update(body)
                return 200, each
        return NOT_FOUND

    def list_issues(self, query: Query, _: Any) -> Reply:
        return 200, _page([each for each in self.issues if each["state"] == query["state"]], query)

    def new_issue(self, query: Query, body: Any) -> Reply:
        made = {"number": len(self.issues) + 1, "state": "open", "user": {"login": BOT}, **body}
        self.issues.append(made)
        return 201, made

    def change_issue(self, query: Query, body: Any, number: str) -> Reply:
        self.issues[int(number) - 1].update(body)
        return 200, self.issues[int(number) - 1]

    def user(self, query: Query, _: Any, login: str) -> Reply:
        return (200, {"id": self.users[login]}) if login in self.users else NOT_FOUND

    def put_environment(self, query: Query, body: Any, name: str) -> Reply:
        found = self.environments.setdefault(name, {"branches": []})
        found["reviewers"] = None if self.without_reviewers else body["reviewers"]
        if body["deployment_branch_policy"] is None:
            found["branches"] = []
        return 200, {}

    def get_environment(self, query: Query, _: Any, name: str) -> Reply:
        rules = [{"type": "required_reviewers"}] if self.environments[name]["reviewers"] else []
        return 200, {"protection_rules": rules}

    def get_branches(self, query: Query, _: Any, name: str) -> Reply:
        return 200, {"branch_policies": [{"name": branch} for branch in self.environments[name]["branches"]]}

    def add_branch(self, query: Query, body: Any, name: str) -> Reply:
        self.environments[name]["branches"].append(body["name"])
        return 200, {}

    def get_variable(self, query: Query, _: Any, path: str, name: str) -> Reply:
        key = f"{path}/{name}"
        return (200, {"value": self.variables[key]}) if key in self.variables else NOT_FOUND

    def add_variable(self, query: Query, body: Any, path: str) -> Reply:
        self.variables[f"{path}/{body['name']}"] = body["value"]
        return 201, {}

    def change_variable(self, query: Query, body: Any, path: str, name: str) -> Reply:
        if f"{path}/{name}" not in self.variables:
            return NOT_FOUND
        self.variables[f"{path}/{name}"] = body["value"]
        return 204, None


_VARIABLES = r"(actions/variables|environments/[\w-]+/variables)"
ROUTES: Mapping[str, Callable[..., Reply]] = {
    r"GET commits/(\w+)/pulls": GitHubServer.commit_pulls,
    r"GET actions/runs": GitHubServer.list_runs,
    r"GET actions/runs/(\d+)/attempts/(\d+)": GitHubServer.run_attempt,
    r"GET actions/runs/(\d+)/artifacts": GitHubServer.list_artifacts,
    r"GET actions/artifacts": GitHubServer.list_artifacts,
    r"GET actions/artifacts/(\d+)/zip": GitHubServer.download,
    r"GET compare/(\w+)\.\.\.(\w+)": GitHubServer.compare,
    r"GET issues/(\d+)/comments": GitHubServer.list_comments,
    r"POST issues/(\d+)/comments": GitHubServer.new_comment,
    r"PATCH issues/comments/(\d+)": GitHubServer.change_comment,
    r"GET issues": GitHubServer.list_issues,
    r"POST issues": GitHubServer.new_issue,
    r"PATCH issues/(\d+)": GitHubServer.change_issue,
    r"GET /users/(\w+)": GitHubServer.user,
    r"PUT environments/([\w-]+)": GitHubServer.put_environment,
    r"GET environments/([\w-]+)": GitHubServer.get_environment,
    r"GET environments/([\w-]+)/deployment-branch-policies": GitHubServer.get_branches,
    r"POST environments/([\w-]+)/deployment-branch-policies": GitHubServer.add_branch,
    rf"GET {_VARIABLES}/(\w+)": GitHubServer.get_variable,
    rf"POST {_VARIABLES}": GitHubServer.add_variable,
    rf"PATCH {_VARIABLES}/(\w+)": GitHubServer.change_variable,
}


def _page(items: list[dict[str, Any]], query: Query) -> list[dict[str, Any]]:
    size, page = int(query["per_page"]), int(query["page"])
    return items[(page - 1) * size : page * size]


@contextmanager
def serving_github(git: Path | None = None) -> Iterator[GitHubServer]:
    """Serve on a loopback port until the end of the block."""
    server = GitHubServer(git)

    class Handler(BaseHTTPRequestHandler):
        def _any(self) -> None:
            split = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            server.requests.append(f"{self.command} {split.path}")
            authorized = self.headers.get("Authorization") == f"Bearer {TOKEN}"
            if split.path.startswith("/storage/"):
                # As GitHub's storage does: the address is the permission, and a second one is refused.
                if self.headers.get("Authorization"):
                    self._reply(400, {"message": "two authorizations"})
                    return
                number = int(split.path.rpartition("/")[2])
                files = next(each["files"] for each in server.artifacts if each["id"] == number)
                packed = io.BytesIO()
                with zipfile.ZipFile(packed, "w") as archive:
                    for name, text in files.items():
                        archive.writestr(name, text)
                self._reply(200, packed.getvalue())
                return
            if not authorized:
                self._reply(401, {"message": "Bad credentials"})
                return
            path = split.path.removeprefix(f"/repos/{REPOSITORY}/")
            status, content = server.answer(
                self.command, path, dict(parse_qsl(split.query)), json.loads(body) if body else None
            )
            self._reply(status, content)

        def _reply(self, status: int, content: Any) -> None:
            self.send_response(status)
            if status == 302:
                self.send_header("Location", content)
                content = b""
            data = content if isinstance(content, bytes) else b"" if content is None else json.dumps(content).encode()
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _any  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()
