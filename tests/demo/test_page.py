"""The page as people use it: drawn on, listened to, on a phone, in the dark."""

import time

import pytest

from tests.demo.conftest import ready

pytestmark = pytest.mark.site

PIXELS = """
const canvas = document.getElementById(arguments[0]);
const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
return [...data].filter((_, i) => i % 4 === 0);
"""


def pixels(page, name):
    """The red channel of a canvas."""
    return page.execute_script(PIXELS, name)


def until(page, name, words):
    """Wait for words in a part of the page."""
    end = time.monotonic() + 60
    while words not in page.find_element("id", name).text:
        assert time.monotonic() < end, page.find_element("id", name).text
        time.sleep(0.05)


def click(page, name):
    page.execute_script("document.getElementById(arguments[0]).click()", name)


def draw(page, name, places):
    """A stroke through places, as fractions of the board's width and height."""
    from selenium.webdriver import ActionChains

    board = page.find_element("id", name)
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", board)
    size = board.size["width"]
    offsets = [(round(size * (x - 0.5)), round(size * (y - 0.5))) for x, y in places]

    chain = ActionChains(page, duration=20).move_to_element_with_offset(board, *offsets[0])
    chain.click_and_hold()
    for (x, y), (before_x, before_y) in zip(offsets[1:], offsets, strict=False):
        chain.move_by_offset(x - before_x, y - before_y)
    chain.release().perform()


@pytest.fixture
def board(page):
    """An empty board whose upper half is given."""
    click(page, "fill-clear")
    page.execute_script("document.querySelector('input[value=top]').click()")
    return page


def test_half_a_digit_is_drawn_and_the_rest_filled_in(board):
    empty = pixels(board, "fill-board")
    draw(board, "fill-board", [(0.3, 0.2), (0.7, 0.2), (0.6, 0.4)])
    until(board, "fill-status", "Filled in: 30 steps")

    drawn = pixels(board, "fill-board")
    filled = pixels(board, "fill-result")
    assert drawn != empty
    assert drawn[32:] == empty[32:]  # nothing was drawn on the half that is missing
    assert filled[:32] == drawn[:32]  # given pixels stay
    assert len(set(filled[32:])) > 5

    click(board, "fill-erase")
    draw(board, "fill-board", [(0.2, 0.2), (0.8, 0.2)])
    click(board, "fill-erase")
    until(board, "fill-status", "Filled in: 30 steps")
    erased = pixels(board, "fill-board")
    assert sum(erased[:32]) != sum(drawn[:32])
    assert pixels(board, "fill-result") != filled


def test_nothing_is_drawn_on_the_missing_half(board):
    empty = pixels(board, "fill-board")
    draw(board, "fill-board", [(0.3, 0.7), (0.7, 0.7)])

    assert pixels(board, "fill-board") == empty
    assert board.find_element("id", "fill-status").text == "Draw on the open half."


def test_the_keyboard_draws_too(board):
    from selenium.webdriver import Keys

    canvas = board.find_element("id", "fill-board")
    board.execute_script("arguments[0].focus()", canvas)
    canvas.send_keys(Keys.ARROW_LEFT, Keys.SPACE)
    canvas.send_keys(Keys.SHIFT + Keys.ARROW_RIGHT + Keys.ARROW_RIGHT + Keys.NULL)
    until(board, "fill-status", "Filled in")

    board.execute_script("arguments[0].blur()", canvas)
    drawn = pixels(board, "fill-board")
    assert len({value for value in drawn[:32] if value != drawn[0]}) >= 1

    board.execute_script("arguments[0].focus()", canvas)
    canvas.send_keys(Keys.SPACE, Keys.DELETE)
    board.execute_script("arguments[0].blur()", canvas)
    assert pixels(board, "fill-board") != drawn


def test_completions_change_with_steps_and_noise(board):
    click(board, "fill-example")
    until(board, "fill-status", "Filled in: 30 steps")
    plain = pixels(board, "fill-result")

    for _ in range(5):  # until all draws are there at which it may start
        before = plain
        click(board, "fill-again")
        until(board, "fill-status", "Inference")
        until(board, "fill-status", "Filled in")
        plain = pixels(board, "fill-result")
    assert before == plain  # without noise it is the same again

    change = """
    const slider = document.getElementById(arguments[0]);
    slider.value = arguments[1];
    slider.dispatchEvent(new Event("input"));
    slider.dispatchEvent(new Event("change"));
    """
    board.execute_script(change, "fill-steps", 0)
    until(board, "fill-status", "Filled in: 0 steps")
    assert pixels(board, "fill-result") != plain

    board.execute_script(change, "fill-noise", 0.2)
    board.execute_script(change, "fill-steps", 30)
    until(board, "fill-status", "Filled in: 30 steps")
    assert pixels(board, "fill-result") != plain
    board.execute_script(change, "fill-noise", 0)


def test_samples_follow_from_the_seed(page):
    every = "return [...document.querySelectorAll('#samples-grid canvas')].map(c => c.toDataURL())"
    until(page, "samples-status", "20 samples.")
    first = page.execute_script(every)
    assert len(set(first)) == 20

    seed = "const s = document.getElementById('samples-seed'); s.value = arguments[0];"
    seed += "document.getElementById('samples-status').textContent = '';"
    seed += "s.dispatchEvent(new Event('change'));"
    page.execute_script(seed, 1)
    until(page, "samples-status", "20 samples.")
    assert page.execute_script(every) != first

    page.execute_script(seed, 0)
    until(page, "samples-status", "20 samples.")
    assert page.execute_script(every) == first


@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_chain_runs_at_any_level(page, level):
    page.execute_script("document.getElementById('chain-level').value = arguments[0]", str(level))
    click(page, "chain-run")
    until(page, "chain-count", "state 3")
    some = pixels(page, "chain")
    until(page, "chain-count", "state 1")
    click(page, "chain-run")
    assert page.find_element("id", "chain-run").text == "Start the chain"
    assert len(set(some)) > 5


def test_a_click_on_the_plane_starts_a_chain(page):
    before = pixels(page, "toy")
    page.execute_script("document.getElementById('toy-steps').value = 5")
    page.execute_script(
        """
        const canvas = document.getElementById("toy");
        canvas.scrollIntoView({block: "center"});
        const box = canvas.getBoundingClientRect();
        canvas.dispatchEvent(new MouseEvent("click", {
          clientX: box.left + 0.9 * box.width, clientY: box.top + 0.1 * box.height}));
        """
    )
    until(page, "toy-status", "Step 4:")
    assert pixels(page, "toy") != before

    click(page, "toy-begin")
    until(page, "toy-status", "Step 4:")


def test_a_label_becomes_an_image_that_is_read_as_the_label(page):
    page.execute_script("document.querySelectorAll('#label-bars button')[3].click()")
    until(page, "label-status", "Most probable: 3")
    assert pixels(page, "label-image") == pixels(page, "label-board")

    click(page, "label-clear")
    until(page, "label-status", "Draw a digit, or choose one.")
    draw(page, "label-board", [(0.5, 0.2), (0.5, 0.8)])
    until(page, "label-status", "Most probable: 1")


def test_targets_teach_the_small_network(page):
    status = page.find_element("id", "learn-status").text
    assert status.startswith("Update 0:")

    page.execute_script("document.getElementById('learn-speed').value = 20")
    click(page, "learn-run")
    until(page, "learn-status", ": 0 of 80 points wrong.")
    click(page, "learn-run")
    titles = page.execute_script(
        "return [...document.querySelectorAll('.strip span')].map((e) => e.textContent)"
    )
    assert titles == ["ĥ₂", "h₂", "ĥ₁", "h₁"]

    click(page, "learn-next")
    click(page, "learn-reset")
    assert page.find_element("id", "learn-status").text.startswith("Update 0:")


def test_everything_has_a_name_for_screen_readers(page):
    nameless = page.execute_script(
        """
        const named = (e) => e.getAttribute("aria-label") || e.closest("label")
          || e.textContent.trim();
        return [...document.querySelectorAll("canvas, button, input, select")]
          .filter((e) => !named(e)).map((e) => e.outerHTML);
        """
    )
    assert nameless == []
    assert page.execute_script("return document.documentElement.lang") == "en"


def emulate(page, width=1000, dark=False):
    scheme = "dark" if dark else "light"
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def test_it_fits_a_phone_and_the_dark(page):
    ground = "return getComputedStyle(document.body).backgroundColor"
    light = page.execute_script(ground)
    try:
        emulate(page, 360, dark=True)
        assert page.execute_script("return document.documentElement.scrollWidth") <= 360
        assert page.execute_script(ground) != light
    finally:
        emulate(page)


def troubles(page):
    """What the browser calls severe."""
    return [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"]


def test_nothing_goes_wrong_and_nothing_is_asked_of_others(page):
    assert troubles(page) == []
    names = page.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert [name for name in names if not name.startswith(("file:", "data:"))] == []


def test_the_served_page_is_the_same(browser):
    import threading

    from gendae.commands.demo import files_of, scripts_of
    from gendae.demo.server import Server

    with Server(files_of(scripts_of("digits-variational-em"))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        ready(browser, server.url)
        assert troubles(browser) == []
        assert browser.find_element("id", "fill-model").text == "digits-variational-em"
        names = browser.execute_script(
            "return performance.getEntriesByType('resource').map(e => e.name)"
        )
        assert all(name.startswith((server.url, "data:")) for name in names)
        server.shutdown()
