"""Try, Grade and Play as visitors meet them: in a browser on a laptop and a phone, light and dark, by keyboard, many at once."""

import asyncio
import json
import random
import re
import threading
import time

import httpx
import pytest
from browser import needs_browser, opened_browser, seen_on, until
from page_client import Visitor, functions_of, page
from PIL import Image
from test_demo import write_run
from test_demo_servers import WithList

pytest.importorskip("gradio", reason="gradio is not installed; pip install -e '.[demo]'")
pytest.importorskip("selenium")
from chat_server import Server
from page_steps import (
    SCREENS,
    choose,
    faults,
    fill,
    find,
    find_all,
    has_image,
    open_page,
    seen,
    text,
)

from demos.games import Game
from demos.page_tasks import PageTasks
from vlrl.data.synthetic.deals import game_sample
from vlrl.tasks.games import GAME_TASKS

pytestmark = pytest.mark.long  # a server, a browser and a model of their own
HOSTILE = "<script>window.__pwned=1</script><img src=x onerror=window.__pwned=1> ‮rtl אבג 🟥"


def write_games(folder):
    """A run of a card game that has logged its held-out episodes."""
    write_run(folder)
    samples = [game_sample("points24", 0, "heldout", i) for i in (2, 3)]
    lines = [json.dumps({"id": one.id, "completion": GAME_TASKS["points24"].oracle(one)}) for one in samples]
    (folder / "predictions_after.jsonl").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    write_games(folder / "runs" / "cards")
    with page(folder) as found:
        yield found
        assert "Traceback" not in (folder / "log.txt").read_text()


@pytest.fixture(scope="module")
def browser():
    with opened_browser() as found:
        found.set_script_timeout(60)
        yield found


def labels_of(browser, selector):
    """What stands on an image beside its boxes."""
    return [one.get_attribute("textContent") for one in find_all(browser, f"{selector} svg text")]


def pwned(browser):
    return browser.execute_script("return window.__pwned")


@needs_browser
def test_one_click_on_an_example_answers_in_three_seconds_above_the_fold(browser, address):
    with seen_on(browser, *SCREENS["laptop"][:2]):
        open_page(browser, address)
        taken = []
        for number in (3, 5, 6):
            shown = text(browser, "#try-scores")
            start = time.monotonic()
            find_all(browser, "#try-gallery .vl-thumb")[number].click()
            until(lambda shown=shown: "iou_f1" in text(browser, "#try-scores") and text(browser, "#try-scores") != shown)
            taken.append(time.monotonic() - start)
        assert min(taken) < 3, "seconds from a click to the whole answer"
        assert "predicted" in text(browser, "#try-answer")
        assert "thought" in text(browser, "#try-answer").lower()
        until(lambda: labels_of(browser, "#try-image")[0] == "T1 purple square")
        labels = labels_of(browser, "#try-image")
        assert any(re.fullmatch(r"P1 (IoU \d\.\d\d|no match)", one) for one in labels)
        assert "purple square" in find(browser, "#try-image img").get_attribute("alt")
        for selector in ("#try-ask", "#try-answer .vl-box", "#try-scores table"):
            box = browser.execute_script(
                "const b = arguments[0].getBoundingClientRect(); return [b.top, b.bottom]", find(browser, selector)
            )
            assert 0 <= box[0] < box[1] <= 768, f"{selector} lies below the fold: {box}"


@needs_browser
def test_a_group_shows_every_box_with_its_advantage(browser, address):
    open_page(browser, address)
    seen(browser, "#try-more button").click()
    field = seen(browser, "#try-n input[type=number]")
    field.clear()
    field.send_keys("3\t")
    n_boxes = 0
    for _ in range(5):  # completions are drawn: three without a box are rare
        before = text(browser, "#try-scores")
        find(browser, "#try-ask").click()
        until(lambda before=before: text(browser, "#try-scores") != before)
        until(lambda: len(find_all(browser, "#try-scores .vl-group > li")) == 3)
        assert text(browser, "#try-scores").lower().count("advantage") >= 3
        said = find(browser, "#try-image img").get_attribute("alt")
        n_boxes = sum(int(n) for n in re.findall(r"(\d+) box(?:es)? predicted", said))
        labels = [one for one in labels_of(browser, "#try-image") if re.fullmatch(r"[123] [+-]\d\.\d\d", one)]
        assert len(labels) == n_boxes, said
        if n_boxes:
            break
    assert n_boxes


@needs_browser
def test_an_upload_gets_a_question_of_its_own_and_an_honest_word(browser, address, tmp_path):
    picture = tmp_path / "<img src=x onerror=window.__pwned=1>אבג.png"
    Image.effect_noise((320, 200), 80).convert("RGB").save(picture)
    open_page(browser, address)
    before = find(browser, "#try-question textarea, #try-question input").get_attribute("value")
    find(browser, "#try-upload ~ input[type=file], input[type=file]").send_keys(str(picture))
    until(lambda: "320 x 200 pixels" in text(browser, "#try-answer"))
    question = find(browser, "#try-question textarea, #try-question input").get_attribute("value")
    assert question not in ("", before)
    assert "drawn scenes" in text(browser, "#try-answer")
    find(browser, "#try-ask").click()
    until(lambda: "not known" in text(browser, "#try-scores"))
    assert "drawn scenes" in text(browser, "#try-answer"), "the word stays beside the answer"
    assert re.search(r"boxe?s? predicted|says that there is no|No boxes could be read", text(browser, "#try-answer"))
    fill(browser, "#try-question textarea, #try-question input", HOSTILE)
    find(browser, "#try-ask").click()
    until(lambda: "thought" in text(browser, "#try-answer").lower())
    assert pwned(browser) is None


@needs_browser
def test_a_server_answers_and_its_faults_are_one_line(browser, address):
    server = Server(["<think>seen</think><answer>None</answer>"])
    server.RequestHandlerClass, server.models = WithList, ["good"]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        open_page(browser, address)
        seen(browser, "#try-server button").click()
        fill(browser, "#try-server-url textarea, #try-server-url input", f"http://127.0.0.1:{server.server_address[1]}/v1")
        fill(browser, "#try-server-key input", "sk-visitors-own-key-123456")
        assert find(browser, "#try-server-key input").get_attribute("type") == "password"
        model = "#try-server-model textarea, #try-server-model input"
        fill(browser, model, "wrong")
        start = time.monotonic()
        find(browser, "#try-server-ask").click()
        until(lambda: "the server has no model 'wrong'; it has good" in text(browser, "#try-answer"))
        assert time.monotonic() - start < 10
        assert not find_all(browser, ".toast-wrap .error"), "said once, in its place"
        fill(browser, model, "good")
        find(browser, "#try-server-ask").click()
        until(lambda: "seen" in text(browser, "#try-answer"))
        assert "there is no yellow square in this image. That is wrong." in text(browser, "#try-answer")
        assert "sk-visitors" not in browser.page_source
    finally:
        server.shutdown()
        server.server_close()


@needs_browser
def test_a_graded_text_is_explained_and_its_link_restores_it(browser, address):
    open_page(browser, address, "Grade")
    until(lambda: "IoU" in text(browser, "#grade-scores"))
    assert "matched" in text(browser, "#grade-read")
    written = f'<think>{HOSTILE}</think><answer>[{{"bbox_2d": [16, 68, 35, 86], "label": "yellow square"}}]</answer>'
    fill(browser, "#grade-text textarea", written)
    until(lambda: "1 box predicted, 1 of 2 true boxes matched" in text(browser, "#grade-read"))
    labels = labels_of(browser, "#grade-image")
    assert labels == ["T1 yellow square", "T2 yellow square", "P1 IoU 1.00"]
    assert "not found" in text(browser, "#grade-scores")
    link = find(browser, "#grade-link a").get_attribute("href")
    assert link.startswith(address)
    browser.get("about:blank")
    browser.get(link)
    until(lambda: "1 of 2 true boxes matched" in text(browser, "#grade-read"))
    assert find(browser, "#grade-text textarea").get_attribute("value").startswith("<think><script>")
    assert pwned(browser) is None
    fill(browser, "#grade-sample textarea", '{"id": 1')
    until(lambda: "not JSON" in text(browser, "#grade-read"))


@needs_browser
def test_a_game_has_a_goal_a_hint_and_logged_episodes_to_replay(browser, address):
    open_page(browser, address, "Play")
    until(lambda: "Goal: write a formula that equals 24" in text(browser, "#play-status"))
    assert "The cards" in find(browser, "#play-image img").get_attribute("alt")
    assert "ends the formula" in text(browser, "#play-move")
    find(browser, "#play-play").click()
    until(lambda: "choose a move first" in text(browser, "#play-status"))
    find(browser, "#play-hint").click()
    until(lambda: "The reference player would play" in text(browser, "#play-status"))
    token = re.search(r"would play (\S+):", text(browser, "#play-status"))[1]
    label = next(one for one in find_all(browser, "#play-move label") if one.text.strip() == token)
    label.click()
    find(browser, "#play-play").click()
    until(lambda: len(find_all(browser, "#play-history tbody tr")) == 1)
    seen(browser, "#play-replay button").click()
    choose(browser, "#replay-run", "cards")
    until(lambda: has_image(browser, "#replay-image"))
    assert "Step 1 of" in text(browser, "#replay-said")
    find(browser, "#replay-on").click()
    until(lambda: "Step 2 of" in text(browser, "#replay-said"))
    assert "points24-heldout-0-2" in text(browser, "#replay-said")


@needs_browser
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("screen", SCREENS)
def test_axe_finds_no_serious_fault_and_nothing_sticks_out(browser, address, screen, theme):
    width, height, mobile = SCREENS[screen]
    with seen_on(browser, width, height, mobile=mobile, dark=theme == "dark"):
        open_page(browser, address, query=f"__theme={theme}")
        assert browser.execute_script("return document.body.classList.contains('dark')") == (theme == "dark")
        find_all(browser, "#try-gallery .vl-thumb")[3].click()
        until(lambda: "iou_f1" in text(browser, "#try-scores"))
        for accordion in ("#try-more", "#try-server"):
            find(browser, f"{accordion} button").click()
        seen(browser, "#try-server-url textarea, #try-server-url input")
        for tab, last in (("Try", "#try-server-ask"), ("Grade", "#grade-image img"), ("Play", "#play-image img")):
            until(lambda tab=tab: [one for one in find_all(browser, "button[role=tab]") if one.text.strip() == tab])[0].click()
            seen(browser, last)
            if tab == "Play":
                find(browser, "#play-replay button").click()
                seen(browser, "#replay-run input")
            assert faults(browser) == [], tab
            assert browser.execute_script("return document.documentElement.scrollWidth - window.innerWidth") <= 0, tab
            unlabelled = [one.get_attribute("outerHTML")[:200] for one in find_all(browser, "img:not([alt])")]
            assert unlabelled == [], tab


@needs_browser
def test_the_keyboard_alone_is_enough(browser, address):
    from selenium.webdriver.common.keys import Keys

    open_page(browser, address)
    until(lambda: find_all(browser, "#try-gallery .vl-thumb"))
    browser.execute_script("document.body.tabIndex = -1; document.body.focus()")
    reached = []
    for _ in range(40):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        where = browser.switch_to.active_element
        reached.append(where.get_attribute("id") or where.get_attribute("class") or where.tag_name)
        if where.get_attribute("class") == "vl-thumb" and where.get_attribute("data-number") == "2":
            outline = browser.execute_script("return getComputedStyle(arguments[0]).outlineStyle", where)
            assert outline == "solid", "the focus is seen"
            where.send_keys(Keys.ENTER)
            break
    else:
        raise AssertionError(f"no example is reached by Tab: {reached}")
    until(lambda: "iou_f1" in text(browser, "#try-scores"))
    assert find(browser, "#try-gallery .vl-thumb[aria-pressed=true]").get_attribute("data-number") == "2"


@needs_browser
def test_two_windows_keep_their_own_examples(browser, address):
    open_page(browser, address)
    first = browser.current_window_handle
    browser.switch_to.new_window("tab")
    second = browser.current_window_handle
    try:
        open_page(browser, address)
        find_all(browser, "#try-gallery .vl-thumb")[1].click()
        browser.switch_to.window(first)
        find_all(browser, "#try-gallery .vl-thumb")[6].click()
        until(lambda: "purple square" in text(browser, "#try-answer") and "iou_f1" in text(browser, "#try-scores"))
        browser.switch_to.window(second)
        until(lambda: "blue circle" in text(browser, "#try-answer") and "iou_f1" in text(browser, "#try-scores"))
        assert "blue circle" in find(browser, "#try-image img").get_attribute("alt")
    finally:
        browser.switch_to.window(second)
        browser.close()
        browser.switch_to.window(first)


async def visit(number, visitor, tasks):
    """One visitor: an example, a graded text, a game, and every fifth a question. Returns what went wrong."""
    rng, wrong = random.Random(number), []

    def check(name, reply, is_own):
        if reply.error or not is_own(reply.data):
            wrong.append(f"visitor {number}, {name}: {reply.error or json.dumps(reply.data)[:300]}")

    index = rng.randrange(100)
    example = tasks.example("detection", index)
    reply = await visitor.call("show_example", "detection", index)
    check("example", reply, lambda data: data[2] == example.question and example.question in data[3])
    own = f"own-{number}-{rng.randrange(10**9)}"
    row = json.dumps({"id": "a", "task": "qa", "question": "Which?", "answer": own})
    reply = await visitor.call("grade", row, f"<think>t</think><answer>{own}</answer>", "exact_match", 0)
    check("grade", reply, lambda data: own in data[1] and own in data[3])
    game = Game("points24", number)
    reply = await visitor.call("deal", "points24", number)
    check("deal", reply, lambda data: game.status in data[3] and game.goal in data[3])
    game.play_token(token := rng.choice(game.tokens), "")
    reply = await visitor.call("by_hand", None, token, "")
    check("move", reply, lambda data: game.status in data[3] and game.described in data[1])
    if number % 5 == 0:
        reply = await visitor.call("answer_it", "detection", "tiny", None, None, example.question, 1, 1.0)
        check("answer", reply, lambda data: "vl-table" in data[2] and example.question in data[0])
    return wrong


def test_fifty_visitors_at_once_meet_no_error_and_nobody_else_s_state(address):
    tasks = PageTasks()

    async def everybody():
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(limits=limits, timeout=120) as client:
            functions = await functions_of(client, address)
            visitors = [Visitor(client, address, functions) for _ in range(50)]
            return await asyncio.gather(*(visit(i, one, tasks) for i, one in enumerate(visitors)))

    assert [line for lines in asyncio.run(everybody()) for line in lines] == []
