"""The demo as people meet it: a real browser on a real server, many clients, bad uploads."""

import json
import os
import re
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from browser import keep, needs_browser, opened_browser, until
from page_client import answers, page
from PIL import Image
from test_demo import write_run
from test_hostile_text import HOSTILE, write_hostile_run

from demos.games import Game

pytest.importorskip("gradio", reason="gradio is not installed; pip install -e '.[demo]'")
pytest.importorskip("selenium")
from page_steps import find, find_all, has_image, text

pytestmark = pytest.mark.long  # a server, a browser and a model of their own


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    write_run(folder / "runs" / "first")
    write_run(folder / "runs" / "second", reward=0.3)
    (folder / "secret.txt").write_text("secret")
    return folder


@pytest.fixture(scope="module")
def url(root):
    with page(root) as address:
        yield f"{address}/"
        assert answers(address), "it is still there after all tests"


@pytest.fixture(scope="module")
def browser():
    with opened_browser() as found:
        yield found


def tab_of(browser, name):
    return until(lambda: [b for b in find_all(browser, "button[role=tab]") if b.text.strip() == name])[0]


def open_tab(browser, url, name):
    browser.get(url)
    until(lambda: find(browser, "#try-ask"))
    if name != "Try":
        tab_of(browser, name).click()


def choose(browser, selector, name):
    find(browser, f"{selector} input").click()
    until(lambda: [one for one in find_all(browser, "ul[role=listbox] li") if name in one.text])[0].click()


@needs_browser
def test_one_click_gives_an_answer_with_boxes(browser, url):
    open_tab(browser, url, "Try")
    until(lambda: find(browser, "#try-question textarea, #try-question input").get_attribute("value"))
    until(lambda: has_image(browser, "#try-image"))
    find(browser, "#try-ask").click()
    until(lambda: "iou_f1" in text(browser, "#try-scores"))
    assert "thought" in text(browser, "#try-answer").lower()
    assert "bbox_2d" in text(browser, "#try-answer")
    until(lambda: has_image(browser, "#try-image"))
    keep(browser, "try")


@needs_browser
def test_a_drawing_is_asked_about(browser, url):
    from selenium.webdriver.common.action_chains import ActionChains

    open_tab(browser, url, "Try")
    until(lambda: has_image(browser, "#try-image"))
    example = find(browser, "#try-image img").get_attribute("src")
    find(browser, "#try-draw button").click()
    sheet = until(lambda: (c := find(browser, "#try-pad canvas")).is_displayed() and c)
    find(browser, "#try-pad button[aria-label='Brush']").click()
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", sheet)
    time.sleep(0.5)
    pen = ActionChains(browser).move_to_element_with_offset(sheet, -60, -40).click_and_hold()
    for dx, dy in ((120, 0), (0, 80), (-120, 0), (0, -80)):
        pen = pen.move_by_offset(dx, dy)
    pen.release().perform()
    until(lambda: find(browser, "#try-drawn").is_enabled())
    find(browser, "#try-drawn").click()
    until(lambda: find(browser, "#try-image img").get_attribute("src") != example)
    keep(browser, "draw")
    find(browser, "#try-ask").click()
    until(lambda: "not known" in text(browser, "#try-scores"))
    assert "answer" in text(browser, "#try-answer").lower()


@needs_browser
def test_a_group_shows_what_grpo_sees(browser, url):
    open_tab(browser, url, "Try")
    until(lambda: has_image(browser, "#try-image"))
    find(browser, "#try-more button").click()
    field = until(lambda: (one := find(browser, "#try-n input[type=number]")).is_displayed() and one)
    field.clear()
    field.send_keys("4\t")
    find(browser, "#try-ask").click()
    until(lambda: "advantage" in text(browser, "#try-scores").lower())
    assert text(browser, "#try-scores").count("<answer>") == 4


@needs_browser
def test_editing_a_completion_updates_its_score(browser, url):
    open_tab(browser, url, "Grade")
    until(lambda: "iou_f1" in text(browser, "#grade-scores"))
    before = text(browser, "#grade-scores")
    keep(browser, "grade")
    field = find(browser, "#grade-text textarea")
    field.clear()
    field.send_keys("no answer at all")
    until(lambda: text(browser, "#grade-scores") not in (before, ""))
    assert "no" in text(browser, "#grade-scores").lower()


@needs_browser
def test_a_run_that_is_still_written_is_followed(browser, url, root):
    open_tab(browser, url, "Runs")
    until(lambda: find(browser, "#runs-plot-0 svg path"))
    until(lambda: "0.400 [0.300, 0.500]" in text(browser, "#runs-numbers"))
    until(lambda: "<b>text 0</b>" in text(browser, "#runs-rows")), "shown as text, not as HTML"
    keep(browser, "runs")
    other = "first" if "of second" in text(browser, "#runs-rows") else "second"
    choose(browser, "#runs-first", other)
    until(lambda: f"of {other}" in text(browser, "#runs-rows")), "its rows, though both runs have a step 1"
    shown = text(browser, "#runs-status")
    for name in ("first", "second"):
        log = root / "runs" / name / "metrics.jsonl"
        log.write_text(log.read_text() + 'ard": 1}\n' + json.dumps({"step": 7, "reward": 0.9}) + "\n")
    until(lambda: "step 99" in text(browser, "#runs-status") and text(browser, "#runs-status") != shown)


@needs_browser
def test_text_of_a_hostile_run_runs_nothing(browser, url, root):
    """Names, metrics and completions that are HTML with handlers; and were one let through, the policy would stop it."""
    names = []
    for number, hostile in enumerate(HOSTILE):
        names.append(f"hostile{number}")
        write_hostile_run(root / "runs" / names[-1], hostile)
    write_run(root / "runs" / "<img src=x onerror=window.__pwned=1>")
    try:
        open_tab(browser, url, "Runs")
        until(lambda: all(name in text(browser, "#runs-list") for name in names)), "new runs appear by themselves"
        for name in ("<img src=x onerror=window.__pwned=1>", *names):
            choose(browser, "#runs-first", name)
            until(lambda name=name: name in text(browser, "#runs-status"))
            until(lambda: find(browser, "#runs-rows td"))
        assert browser.execute_script("return window.__pwned") is None
        add = "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=window.__pwned=1><b onclick=window.__pwned=1 id=b>b</b>')"
        browser.execute_script(add)
        browser.execute_script("document.getElementById('b').click()")
        time.sleep(0.5)
        assert browser.execute_script("return window.__pwned") is None
    finally:
        for name in os.listdir(root / "runs"):
            if name not in ("first", "second"):
                shutil.rmtree(root / "runs" / name)


@needs_browser
def test_who_waits_sees_the_place_in_the_queue(browser, url):
    from gradio_client import Client

    words = {"task": "detection", "model": "tiny", "question": "red square", "n": 8, "temperature": 2.0}
    open_tab(browser, url, "Try")
    until(lambda: has_image(browser, "#try-image"))
    jobs = [Client(url, verbose=False).submit(**words, api_name="/answer_it") for _ in range(3)]
    find(browser, "#try-ask").click()
    until(
        lambda: re.search(
            r"queue: \d/\d", text(browser, "#try-answer") + text(browser, "#try-image") + text(browser, "#try-scores")
        )
    )
    for job in jobs:
        job.result()
    until(lambda: "iou_f1" in text(browser, "#try-scores"))


@needs_browser
def test_a_game_is_played_move_by_move(browser, url):
    open_tab(browser, url, "Play")
    until(lambda: has_image(browser, "#play-image"))
    until(lambda: find_all(browser, "#play-move label"))[0].click()
    find(browser, "#play-play").click()
    until(lambda: "corrector" in text(browser, "#play-history").lower())
    keep(browser, "play")
    find(browser, "#play-step").click()
    until(lambda: len(find_all(browser, "#play-history tr")) == 3 or "over" in text(browser, "#play-status"))


SCREENS = {"laptop": (1366, 768, False), "phone": (390, 844, True)}
SHOWN = {
    "Try": ("#try-image img", "#try-said"),
    "Grade": ("#grade-image img", "#grade-read"),
    "Runs": ("#runs-rows td", "#runs-status"),
    "Play": ("#play-image img", "#play-status"),
}
"""Of each tab what is there last, and what takes the width of a column."""
STICKS_OUT = """
const wide = document.documentElement.clientWidth;
return [...document.querySelectorAll('.gradio-container *')].filter(e => {
  const box = e.getBoundingClientRect();
  if (!box.width || !box.height || box.right <= wide + 1) return false;
  for (let p = e.parentElement; p; p = p.parentElement) if (getComputedStyle(p).overflowX != 'visible') return false;
  return true;
}).map(e => e.tagName + '.' + e.className).slice(0, 5)"""
BROKEN_WORDS = r"""
const broken = [];
for (const cell of document.querySelectorAll('.vl-table th, .vl-table td:not(.vl-long)')) {
  if (!cell.getBoundingClientRect().width) continue;
  const texts = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) for (const word of texts.currentNode.data.matchAll(/\w+/g)) {
    const range = document.createRange();
    range.setStart(texts.currentNode, word.index);
    range.setEnd(texts.currentNode, word.index + word[0].length);
    if (new Set([...range.getClientRects()].map(line => line.top)).size > 1) broken.push(word[0]);
  }
}
return broken"""
"""Words of tables that go on in the next line."""
SQUEEZED = ".vl-table {table-layout: fixed; width: 60px !important} .vl-table * {overflow-wrap: anywhere !important}"


@needs_browser
@pytest.mark.parametrize(("screen", "theme"), [("laptop", "light"), ("phone", "dark")])
def test_it_looks_right_on_a_laptop_and_a_phone(browser, url, screen, theme):
    width, height, mobile = SCREENS[screen]
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        for tab, (last, wide) in SHOWN.items():
            open_tab(browser, f"{url}?__theme={theme}", tab)
            until(lambda last=last: find(browser, last).is_displayed())
            assert find(browser, wide).size["width"] > (0.7 if mobile else 0.3) * width, f"{tab}: columns are squeezed"
            assert browser.execute_script("return document.documentElement.scrollWidth - window.innerWidth") <= 0, tab
            assert browser.execute_script("return window.innerWidth") == width, f"{tab}: the page is wider than the screen"
            assert browser.execute_script(STICKS_OUT) == [], tab
            assert browser.execute_script(BROKEN_WORDS) == [], tab
            dark = browser.execute_script("return document.body.classList.contains('dark')")
            assert dark == (theme == "dark")
            keep(browser, f"{screen}_{theme}_{tab.lower()}")
        if mobile:
            browser.execute_script(
                f"document.head.append(Object.assign(document.createElement('style'), {{textContent: '{SQUEEZED}'}}))"
            )
            tab_of(browser, "Grade").click()
            until(lambda: browser.execute_script(BROKEN_WORDS)), "squeezed on purpose, words are seen to break"
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_twenty_people_at_once_keep_their_own_games(url):
    from gradio_client import Client

    def play(seed):
        mine, client = Game("points24", seed), Client(url, verbose=False, httpx_kwargs={"timeout": 60})
        client.predict(name="points24", seed=seed, api_name="/deal")
        status = ""
        for number in range(3):
            token = mine.tokens[(seed + number) % len(mine.tokens)]
            mine.play_token(token, "")
            *_, status, _, _ = client.predict(token=token, thought="", api_name="/by_hand")
            if mine.episode.done:
                break
        return mine.status in status

    with ThreadPoolExecutor(20) as people:
        assert all(people.map(play, range(20)))


def test_bad_uploads_get_a_message_and_the_server_stays(url, root):
    from gradio_client import Client, handle_file

    client = Client(url, verbose=False)
    good, corrupt, wrong = (root / name for name in ("good.png", "corrupt.png", "text.png"))
    Image.new("RGB", (64, 48), "red").save(good)
    corrupt.write_bytes(good.read_bytes()[:50])
    wrong.write_text("not an image")
    words = {"task": "detection", "model": "tiny", "api_name": "/take_upload"}
    assert "64 x 48 pixels" in str(client.predict(path=handle_file(str(good)), **words))
    for path in (corrupt, wrong):
        assert "not an image that can be read" in str(client.predict(path=handle_file(str(path)), **words))
    large = root / "large.png"
    large.write_bytes(b"0" * 21 * 2**20)
    with pytest.raises(Exception, match=r"(?i)413|size|large"):
        client.predict(path=handle_file(str(large)), **words)
    assert answers(url)


@pytest.mark.parametrize("path", ["/etc/passwd", "secret.txt", "runs/../secret.txt", "runs/first/summary.json"])
def test_files_are_not_served(url, root, path):
    for shown in (path, str(root / path)):
        assert httpx.get(f"{url}gradio_api/file={shown}", timeout=10).status_code in (403, 404)


def test_runs_outside_the_root_are_refused(url):
    from gradio_client import Client
    from gradio_client.exceptions import AppError

    client = Client(url, verbose=False)
    with pytest.raises((AppError, ValueError)):
        client.predict(first="../", second="–", api_name="/look")
