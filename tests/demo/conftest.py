"""A headless browser, and the page in it."""

import os
import shutil
import threading
import time

import pytest

from gendae.commands.demo import demo
from gendae.demo.server import Server


@pytest.fixture(scope="session")
def browser():
    """Chromium; a failure where CI promises it, a skip where it is not on the machine."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        message = "chromium and chromedriver are not on this machine"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)

    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "window-size=1000,900"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})

    opened = webdriver.Chrome(options=options, service=Service(driver))
    opened.set_script_timeout(60)
    yield opened
    opened.quit()


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """The page as files, with the small digits' model."""
    place = tmp_path_factory.mktemp("page")
    demo("digits-variational-em", port=0, out=str(place), bits=8)
    return place


def ready(browser, url):
    """Open the page, and wait for its models."""
    browser.get(url)
    end = time.monotonic() + 60
    while not browser.execute_script("return document.documentElement.dataset.ready"):
        assert time.monotonic() < end, browser.get_log("browser")
        time.sleep(0.05)

    return browser


@pytest.fixture(scope="session")
def page(browser, folder):
    return ready(browser, f"file://{folder}/index.html")


@pytest.fixture
def server():
    with Server({"/": b"<p>hello", "/a.js": b"let a;", "/late.js": lambda: b"let b;"}) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()
