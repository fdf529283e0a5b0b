"""GitHub's API, as the jobs of a workflow reach it. The standard library is enough."""

import io
import json
import os
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPMessage
from typing import IO, Any, cast

TIMEOUT = 30
"""Seconds for one request."""
PAGE = 100
"""Items of a page, the most that GitHub gives."""
PAGES = 10
"""Pages that are read of a list, newest items first."""


class RefusedError(SystemExit):
    """GitHub refused a request, or did not answer. The message is one sentence for the log."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        """HTTP status of the answer. None: there was none."""


class _WithoutToken(urllib.request.HTTPRedirectHandler):
    """Follows a redirect to GitHub's storage, which refuses a request with a second authorization."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is not None:
            request.remove_header("Authorization")
        return request


@dataclass(frozen=True)
class GitHub:
    """The API for one repository, with a job's token."""

    api: str
    """Address of the API."""
    repository: str
    """Owner and name."""
    token: str

    def get(self, path: str, **query: str | int) -> Any:
        """Return an answer's JSON.

        Args:
            path: below the repository, or from the API's root with a slash at the start.
            query: parameters of the query.

        Raises:
            RefusedError: GitHub refused, or did not answer.
        """
        return json.loads(self._send("GET", path, query))

    def send(self, method: str, path: str, body: Mapping[str, Any]) -> Any:
        """Send a change and return the answer's JSON, or None for an empty answer.

        Raises:
            RefusedError: GitHub refused, or did not answer.
        """
        answer = self._send(method, path, {}, json.dumps(body).encode())
        return json.loads(answer) if answer else None

    def every(self, path: str, key: str | None = None, **query: str | int) -> Iterator[dict[str, Any]]:
        """Return the items of a list, page by page.

        Args:
            path: below the repository.
            key: name of the list in the answer. None: the answer is the list.
            query: parameters of the query.

        Raises:
            RefusedError: GitHub refused, or did not answer.
        """
        for page in range(1, PAGES + 1):
            answer = self.get(path, **query, per_page=PAGE, page=page)
            items = cast("list[dict[str, Any]]", answer if key is None else answer[key])
            yield from items
            if len(items) < PAGE:
                return

    def artifact(self, number: int, file: str) -> str:
        """Return a file of an artifact.

        Raises:
            RefusedError: GitHub refused, or the artifact has no such file.
        """
        content = self._send("GET", f"actions/artifacts/{number}/zip", {})
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                return archive.read(file).decode()
        except (zipfile.BadZipFile, KeyError, UnicodeDecodeError):
            raise RefusedError(f"The artifact {number} of {self.repository} has no readable {file}.") from None

    def _send(self, method: str, path: str, query: Mapping[str, str | int], body: bytes | None = None) -> bytes:
        url = self.api + (path if path.startswith("/") else f"/repos/{self.repository}/{path}")
        if query:
            url += "?" + urllib.parse.urlencode(query)
        request = urllib.request.Request(url, data=body, method=method)  # noqa: S310  (the scheme is checked below)
        request.add_header("Accept", "application/vnd.github+json")
        request.add_header("Authorization", f"Bearer {self.token}")
        opener = urllib.request.build_opener(_WithoutToken)
        try:
            with opener.open(request, timeout=TIMEOUT) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            raise RefusedError(
                f"GitHub answered {error.code} to {method} {path}: {error.reason}.", error.code
            ) from None
        except (urllib.error.URLError, TimeoutError) as error:
            raise RefusedError(f"GitHub did not answer {method} {path}: {error}.") from None


def of_this_job() -> GitHub:
    """Return the API for the repository of this job.

    Raises:
        SystemExit: this is no job of a workflow, or the step does not have the token.
    """
    try:
        api, repository, token = (os.environ[name] for name in ("GITHUB_API_URL", "GITHUB_REPOSITORY", "GH_TOKEN"))
    except KeyError as missing:
        raise SystemExit(f"{missing.args[0]} is not set: this command is for a step of a workflow.") from None
    if not api.startswith(("https://", "http://127.0.0.1:")):
        raise SystemExit(f"GITHUB_API_URL is {api}, but the token goes over HTTPS only.")
    return GitHub(api, repository, token)
