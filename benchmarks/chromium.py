"""A headless Chromium, driven by Playwright: Debian's own, nothing is downloaded."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from benchmarks.errors import BenchmarkError

if TYPE_CHECKING:
    from playwright.sync_api import Browser

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
MISSING = (
    "chromium is not installed: apt-get install chromium (Debian), dnf install chromium (Fedora),"
    " brew install --cask chromium (macOS)"
)


def find_chromium() -> str | None:
    """Return the path of a browser on this machine, None where there is none."""
    return next((found for name in PROGRAMS if (found := shutil.which(name))), None)


@contextmanager
def chromium() -> Iterator["Browser"]:
    """Start the browser and end it.

    Raises:
        BenchmarkError: there is none.
    """
    from playwright.sync_api import sync_playwright

    program = find_chromium()
    if program is None:
        raise BenchmarkError(MISSING)
    # Its sandbox does not start as root, which is what a build machine is.
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox"] if root else []
        )
        try:
            yield browser
        finally:
            browser.close()
