"""A real browser, logged in to a local stack."""

import contextlib
import json
from collections.abc import Generator
from typing import Any

import pytest
from playwright.sync_api import Page, sync_playwright

from local.browser import CHROMIUM, OPTIONS, trusting
from local.stack import LocalStack, basic

in_a_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on this machine (Debian: apt-get install chromium)"
)


@contextlib.contextmanager
def pages(stack: LocalStack, *logins: tuple[str, str] | None) -> Generator[list[Page]]:
    """Provide a page for each login, each in a browser's window of its own. None: nobody is logged in."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        opened = list[Page]()
        for login in logins:
            context = browser.new_context(
                base_url=stack.url,
                ignore_https_errors=True,
                http_credentials={"username": login[0], "password": login[1]} if login else None,
                viewport={"width": 1400, "height": 900},
            )
            context.set_default_timeout(60_000)
            opened.append(context.new_page())
        yield opened
        browser.close()


class Visitor:
    """A browser that keeps what it may, logged in to a local stack. It is empty at first.

    A browser keeps nothing from a site whose certificate it does not trust, and Playwright keeps nothing where it answers the question
    for the login. So this one trusts the site's key, and sends the login with every request.
    """

    def __init__(self, stack: LocalStack) -> None:
        self._trusted = trusting(stack.folder / "site.crt")
        self._stack = stack
        self._login = basic(("admin", stack.password()))
        self._exit = contextlib.ExitStack()

    def __enter__(self) -> "Visitor":
        chromium = self._exit.enter_context(sync_playwright()).chromium
        browser = chromium.launch(executable_path=CHROMIUM, args=[*OPTIONS, self._trusted])
        self._exit.callback(browser.close)
        self._context = browser.new_context(base_url=self._stack.url, extra_http_headers={"Authorization": self._login})
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    def visit(self, path: str, title: str) -> dict[str, int]:
        """Open a page, and return the paths that the browser asked the site for, each with the status of the answer.

        Args:
            path: path of the page.
            title: beginning of its title when it is complete.
        """
        page = self._context.new_page()
        answers: list[dict[str, Any]] = []
        session = self._context.new_cdp_session(page)
        session.send("Network.enable")
        session.on("Network.responseReceived", lambda event: answers.append(event["response"]))
        page.goto(path)
        # The script that sets the title comes last.
        page.wait_for_function(f"document.title.startsWith({json.dumps(title)})", timeout=60_000)
        # What the network did is told by another process than what the page did, and on a busy machine later.
        page.wait_for_timeout(2_000)
        page.close()
        return {
            answer["url"].removeprefix(self._stack.url).partition("?")[0]: answer["status"]
            for answer in answers
            if answer["url"].startswith(self._stack.url) and not answer["fromDiskCache"]
        }
