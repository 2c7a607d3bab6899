"""`report.html` as it is read: in a real browser, from a file, light and dark, on a laptop and a phone, with 5,000 answers."""

import json
import re
import time

import pytest
from browser import keep, needs_browser, opened_browser, seen_on, until
from PIL import Image
from test_hostile_text import HOSTILE

from vlrl.bench.page import write_page
from vlrl.bench.suite import Source, Suite, score_tasks
from vlrl.schema import Prediction, Sample
from vlrl.tasks import TASKS

pytestmark = needs_browser
CONTRAST = r"""
function channels(text) { return text.match(/[\d.]+/g).map(Number); }
function luminance(c) {
  const [r, g, b] = c.slice(0, 3).map(v => { v /= 255; return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; });
  return .2126 * r + .7152 * g + .0722 * b;
}
function behind(element) {
  const layers = [];
  for (let e = element; e; e = e.parentElement) layers.push(channels(getComputedStyle(e).backgroundColor));
  let colour = [255, 255, 255];
  for (const c of layers.reverse()) { const a = c.length > 3 ? c[3] : 1; colour = colour.map((v, i) => v * (1 - a) + c[i] * a); }
  return colour;
}
const low = [];
const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (texts.nextNode()) {
  const e = texts.currentNode.parentElement;
  if (!texts.currentNode.data.trim() || !e.getBoundingClientRect().width || e.closest('script, style, svg, :disabled')) continue;
  const a = luminance(channels(getComputedStyle(e).color)), b = luminance(behind(e));
  const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
  if (ratio < 4.5) low.push(e.tagName + '.' + e.className + ' ' + ratio.toFixed(2) + ' ' + texts.currentNode.data.trim().slice(0, 30));
}
return low.slice(0, 8)"""
STICKS_OUT = """
const wide = document.documentElement.clientWidth;
return [...document.querySelectorAll('main *')].filter(e => {
  const box = e.getBoundingClientRect();
  if (!box.width || !box.height || box.right <= wide + 1) return false;
  for (let p = e.parentElement; p; p = p.parentElement) if (getComputedStyle(p).overflowX != 'visible') return false;
  return true;
}).map(e => e.tagName + '.' + e.className).slice(0, 5)"""


def detection_run(folder, n, images=None, labels=None):
    """A page of `n` detection answers: right, shifted, unread, in turns. `images`: files that the samples show, in turns."""
    task = TASKS["detection"]
    samples, predictions = [], {}
    for i in range(n):
        box = [20.0 + i % 50, 30.0, 120.0 + i % 50, 140.0]
        image = images[i % len(images)]
        meta = {"categories": ["red square", "blue disc"], "image_size": [320, 240]}
        answer = [{"bbox_2d": box, "label": "red square"}]
        one = Sample(f"sample-{i}", "detection", "red square", answer, images=(image,), meta=meta)
        shift = (0, 25, 80)[i % 3]
        made = {"bbox_2d": [v + shift for v in box], "label": "red square" if i % 4 else "blue disc"}
        text = f"<think>{i}: I look.</think><answer>{json.dumps([made])}</answer>" if i % 5 else "no answer, I am afraid"
        samples.append(one)
        predictions[one.id] = Prediction(one.id, text, None if i % 2 else 20, False)
    scored = score_tasks({"detection": task}, samples, predictions, "drawn for a test")
    suite = Suite("detection", {"detection": task}, Source("drawn", "0" * 64, n), (), lambda _: 1, None, boxes=True)
    result = {"model": "tiny", "date": "today", "data": {"description": "drawn", "n": n, "sha256": "0" * 64}, "n_failed": 0}
    page = folder / "report.html"
    write_page(page, suite, samples, predictions, scored, result)
    return page


def images_in(folder, n):
    paths = []
    for i in range(n):
        image = Image.effect_noise((320, 240), 40 + i % 60).convert("RGB")
        paths.append(str(folder / f"{i}.jpg"))
        image.save(paths[-1], quality=70)
    return paths


@pytest.fixture(scope="module")
def browser():
    with opened_browser() as driver:
        yield driver


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    return detection_run(folder, 47, images_in(folder, 12))


def opened(browser, page, part="#answers"):
    browser.get("about:blank")
    browser.get(f"{page.as_uri()}{part}")
    if part:
        until(lambda: browser.execute_script("return document.querySelectorAll('.answer').length"))


def run(browser, script, *values):
    return browser.execute_script(script, *values)


def shown_ids(browser):
    return run(browser, "return [...document.querySelectorAll('.answer .id')].map(e => e.textContent)")


def problems(browser):
    return [line["message"] for line in browser.get_log("browser") if line["level"] in ("SEVERE", "WARNING")]


def test_one_look_then_the_worst_answers_with_boxes_and_their_iou(browser, page):
    opened(browser, page, "")
    assert run(browser, "return [...document.querySelectorAll('main > details')].filter(d => d.open).length") == 0
    assert "f1@0.5" in run(browser, "return document.querySelector('.headline').textContent")
    opened(browser, page)
    assert problems(browser) == [], "nothing is refused by the policy and no script fails"
    assert run(browser, "return document.getElementById('status').textContent") == "47 answers, worst first"
    values = run(browser, "return [...document.querySelectorAll('.answer .value')].map(e => Number(e.textContent))")
    assert values == sorted(values)
    assert len(shown_ids(browser)) == 20
    until(lambda: run(browser, "return [...document.querySelectorAll('.frame img')].some(i => i.naturalWidth > 0)"))
    run(
        browser,
        "document.getElementById('sort').value = 'best'; document.getElementById('sort').dispatchEvent(new Event('change'))",
    )
    first = run(
        browser,
        "const a = document.querySelector('.answer'); return [a.querySelector('.iou').textContent,"
        " a.querySelectorAll('rect.true').length, a.querySelectorAll('rect.pred').length,"
        " [...a.querySelectorAll('.frame text')].map(e => e.textContent), a.querySelector('table.boxes').textContent,"
        " a.querySelector('img').alt]",
    )
    assert first[:4] == ["IoU 1", 1, 1, ["T1 red square", "P1 red square"]]
    assert "P1 red squareT1 red square1" in first[4]
    assert first[5].endswith("1 true box, 1 predicted box")
    assert run(browser, "return document.querySelectorAll('.shared').length") == 1, "the prompt stands once"
    assert run(browser, "return document.querySelector('.answer .question')") is None
    assert "tokens –" in run(browser, "return document.getElementById('list').textContent")


def test_filter_search_pages_and_keys(browser, page):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    opened(browser, page)
    run(browser, "[...document.querySelectorAll('.tools button')].find(b => b.textContent.startsWith('unparsed')).click()")
    assert "10 of 47 answers" in run(browser, "return document.getElementById('status').textContent")
    run(browser, "document.querySelector('.tools button').click()")
    field = run(browser, "return document.getElementById('search')")
    field.send_keys("SAMPLE-12")
    until(lambda: shown_ids(browser) == ["sample-12"])
    field.clear()
    field.send_keys("no such text" + Keys.BACKSPACE)
    until(lambda: "0 of 47 answers" in run(browser, "return document.getElementById('status').textContent"))
    opened(browser, page)
    seen = set(shown_ids(browser))
    run(browser, "document.querySelector('.pager .on').focus()")
    ActionChains(browser).send_keys(Keys.ENTER).perform()
    until(lambda: not seen & set(shown_ids(browser)))
    browser.get(page.as_uri())
    for _ in range(12):  # the fold of the answers is reached and opened by keys alone
        ActionChains(browser).send_keys(Keys.TAB).perform()
        if run(browser, "return document.activeElement.parentElement.id") == "answers":
            break
    ActionChains(browser).send_keys(Keys.ENTER).perform()
    until(lambda: shown_ids(browser))


@pytest.mark.parametrize(("width", "mobile", "dark"), [(1366, False, False), (390, True, True), (390, True, False)])
def test_it_reads_well_on_a_laptop_and_a_phone_in_light_and_dark(browser, page, width, mobile, dark):
    with seen_on(browser, width, 850, mobile=mobile, dark=dark):
        opened(browser, page, "")
        name = f"report_{width}_{'dark' if dark else 'light'}"
        keep(browser, name)
        opened(browser, page)
        run(browser, "for (const d of document.querySelectorAll('details')) d.open = true")
        assert run(browser, "return document.documentElement.scrollWidth - window.innerWidth") <= 0
        assert run(browser, STICKS_OUT) == []
        assert run(browser, CONTRAST) == []
        light = "rgb(255, 255, 255)"
        assert (run(browser, "return getComputedStyle(document.body).backgroundColor") == light) is not dark
        run(browser, "document.getElementById('answers').scrollIntoView()")
        keep(browser, f"{name}_answers")
        if width == 1366:
            run(browser, "document.getElementById('theme').click()")
            assert run(browser, "return getComputedStyle(document.body).backgroundColor") != light
            assert run(browser, CONTRAST) == []
            keep(browser, "report_1366_dark_answers")


def test_text_of_answers_is_text(browser, tmp_path):
    path = str(tmp_path / "a.png")
    Image.new("RGB", (30, 20)).save(path)
    task = TASKS["qa"]
    samples = [Sample(f"{i} {text[:200]}", "qa", text, "x", images=(path,)) for i, text in enumerate(HOSTILE)]
    predictions = {one.id: Prediction(one.id, one.question, 3, False, {"prompt": one.question}) for one in samples}
    scored = score_tasks({"qa": task}, samples, predictions, HOSTILE[3])
    suite = Suite(HOSTILE[2], {"qa": task}, Source("x", "0", 1), (), lambda _: 1, None, boxes=False)
    write_page(tmp_path / "report.html", suite, samples, predictions, scored, {"model": HOSTILE[5]})
    opened(browser, tmp_path / "report.html")
    assert problems(browser) == []
    assert len(shown_ids(browser)) == len(HOSTILE)
    run(browser, "for (const d of document.querySelectorAll('details')) d.open = true")
    assert "onerror=window.__pwned=1" in run(browser, "return document.querySelector('main').textContent")
    assert run(browser, "return window.__pwned") is None
    assert run(browser, "return document.querySelectorAll('iframe, main img:not(.frame img), [onerror], [onload]').length") == 0
    run(browser, "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=window.__pwned=1>')")
    time.sleep(0.3)
    assert run(browser, "return window.__pwned") is None, "and were one let through, the policy would stop it"


@pytest.mark.long
def test_five_thousand_answers_open_within_three_seconds(browser, tmp_path):
    page = detection_run(tmp_path, 5000, images_in(tmp_path, 1200))
    assert page.stat().st_size < 48 * 2**20
    browser.get("about:blank")
    start = time.monotonic()
    browser.get(f"{page.as_uri()}#answers")
    until(lambda: run(browser, "return [...document.querySelectorAll('.frame img')].filter(i => i.naturalWidth).length > 1"))
    took = time.monotonic() - start
    assert took < 3, f"{took:.1f} s"
    assert run(browser, "return document.getElementById('status').textContent") == "5,000 answers, worst first"
    start = time.monotonic()
    run(browser, "const f = document.getElementById('search'); f.value = 'sample-4321'; f.dispatchEvent(new Event('input'))")
    until(lambda: shown_ids(browser) == ["sample-4321"])
    assert time.monotonic() - start < 2
    told = run(browser, "return document.getElementById('answers').textContent")
    n_inside, n_not = map(
        int, re.search(r"(\d+) images are in this file, those of the worst answers; (\d+) are not", told).groups()
    )
    assert n_inside + n_not == 1200
