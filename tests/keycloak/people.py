"""People at a browser, who log in to the site with Keycloak."""

import json
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Page

from tests.keycloak.keycloak import Keycloak

CURRENT_USER = "/ajax-api/2.0/mlflow/users/current"
COOKIE = "__Host-mlflow"

_FETCH = """
async ([method, path, body]) => {
  const headers = {"Content-Type": "application/json"};
  const answer = await fetch(path, {method, headers, body: body ?? undefined});
  return [answer.status, await answer.text()];
}
"""


def enter_password(page: Page, keycloak: Keycloak, name: str) -> None:
    """Fill in Keycloak's login form, on which the page has to be or to come."""
    page.locator("#username").fill(name)
    page.locator("#password").fill(keycloak.passwords[name])
    page.locator("#kc-login").click()


def log_in(page: Page, keycloak: Keycloak, name: str, path: str = "/") -> None:
    """Open a page of the site, log in with Keycloak, and wait until the browser is back."""
    page.goto(path, wait_until="commit")
    enter_password(page, keycloak, name)
    page.wait_for_url(lambda address: _is_back(address, keycloak))


def _is_back(address: str, keycloak: Keycloak) -> bool:
    return address.startswith(keycloak.site) and not urlsplit(address).path.startswith("/oidc/")


def call(page: Page, method: str, path: str, body: object = None) -> tuple[int, str]:
    """Send a request from the page, as MLflow's own script does, and return status and text of the answer."""
    status, text = page.evaluate(_FETCH, [method, path, None if body is None else json.dumps(body)])
    return status, text


def asked(page: Page, method: str, path: str, body: object = None) -> dict[str, Any]:
    """Send such a request, which must succeed, and return the answer."""
    status, text = call(page, method, path, body)
    assert status == 200, f"{method} {path}: {status} {text[:300]}"
    return json.loads(text)


def person(page: Page) -> tuple[str, bool]:
    """Return the name of the page's account, and True for an administrator."""
    user = asked(page, "GET", CURRENT_USER)["user"]
    return user["username"], user["is_admin"]


def session(page: Page) -> str:
    """Return the content of the page's session cookie."""
    (cookie,) = [each for each in page.context.cookies() if each.get("name") == COOKIE]
    return cookie.get("value", "")
