"""A real browser, logged in to a local stack."""

import contextlib
import shutil
from collections.abc import Generator

import pytest
from playwright.sync_api import Page, sync_playwright

from local.stack import LocalStack

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

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
