"""A headless Chromium that notes whatever a page complains about."""

import pytest

from benchmarks.chromium import MISSING, chromium, find_chromium
from tests.fakes.watched_page import PageOpener


def pytest_report_header():
    return None if find_chromium() else f"SKIPPED: the tests in a browser. {MISSING}"


@pytest.fixture(scope="module")
def browser():
    """Start the browser for one file of tests: its event loop must not outlive them."""
    if find_chromium() is None:
        pytest.skip(f"NOT TESTED in a browser: {MISSING}")
    with chromium() as found:
        yield found


@pytest.fixture
def open_page(browser):
    """Return what opens a page; in the end nothing may have gone wrong in any of them."""
    opener = PageOpener(browser)
    yield opener
    opener.close()
    assert opener.troubles == []
