"""What tests of the benchmarks share."""

import os
import shutil

import pytest

IN_CI = bool(os.environ.get("CI"))
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="session")
def browser():
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not program:
        reason = f"no browser is installed; looked for {', '.join(BROWSERS)}"
        pytest.fail(reason) if IN_CI else pytest.skip(reason)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        reason = "playwright is not installed; requirements-dev.txt brings it"
        pytest.fail(reason) if IN_CI else pytest.skip(reason)
    with sync_playwright() as started:
        opened = started.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened
        opened.close()
