"""Runs in a real browser: a run that is started on the page is seen live, stopped and resumed there; a sample is opened; training
that is interrupted or killed is called so."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from browser import keep, needs_browser, opened_browser, seen_on, until
from page_steps import SCREENS, faults
from selenium.webdriver.common.by import By
from small_run import SMALL
from test_demo import write_run

from demos.run_plots import LINE_COLOURS
from vlrl.data.files import write_json_lines
from vlrl.schema import Prediction
from vlrl.tasks import TASKS
from vlrl.tasks.evaluate import before_and_after, evaluate
from vlrl.tasks.rubric import choose
from vlrl.training import run_lock
from vlrl.training.held_out_images import write_held_out_images

pytest.importorskip("gradio", reason="gradio is not installed; pip install -e '.[demo]'")
pytestmark = pytest.mark.long  # a page, a browser and trainings of their own
ROOT = Path(__file__).resolve().parent.parent
STEPS = [flag for flag in SMALL if flag not in ("--max_steps", "2")]
STEPS += ["--rewards", f"{ROOT / 'tests' / 'slow_reward.py'}:slowly", "--reward_weights", "1"]
"""Flags of a run of small, slow steps, but not how many of them."""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name, lift in (("first", 0.0), ("second", 0.2)):
        write_whole_run(folder / name, lift)
    return folder


def write_whole_run(folder, lift):
    """A run of 40 steps with held-out samples to open."""
    write_run(folder)
    rows = [{"step": i, "reward": lift + i / 60, "entropy": 1 / i, "frac_reward_zero_std": 0.0} for i in range(1, 41)]
    write_json_lines(folder / "metrics.jsonl", rows)
    tasks = {"detection": TASKS["detection"]}
    samples = [TASKS["detection"].draw(0, "heldout", i) for i in range(4)]
    made = [
        [Prediction(one.id, text or TASKS["detection"].oracle(one), 9, False) for one in samples]
        for text in ("<b>none</b>", "")
    ]
    measured = evaluate(tasks, samples, made[0]), evaluate(tasks, samples, made[1])
    write_json_lines(folder / "held_out.jsonl", before_and_after(samples, *measured, made))
    write_held_out_images(choose(None, samples, tasks), samples, (made[0], made[1]), measured, folder, 3)
    event = {"stage": "grpo", "step": 20, "event": "truncated", "message": "half are cut off", "samples": ["a"]}
    write_json_lines(folder / "events.jsonl", [event | {"what_to_try": "raise --max_completion_length"}])


def serve(root, folder, *flags):
    """The address of a page over these runs, and its process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, str(ROOT / "demos" / "app.py"), "--run_root", str(root), "--port", str(port), *flags]
    environment = {**os.environ, "GRADIO_TEMP_DIR": str(folder / "cache"), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with (folder / "log.txt").open("w") as log:
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    for _ in range(2400):
        assert server.poll() is None, (folder / "log.txt").read_text()
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return f"http://127.0.0.1:{port}/", server
        time.sleep(0.1)
    server.kill()
    raise AssertionError((folder / "log.txt").read_text())


@pytest.fixture(scope="module")
def url(root, tmp_path_factory):
    address, server = serve(root, tmp_path_factory.mktemp("page"))
    yield address
    server.kill()


@pytest.fixture(scope="module")
def browser():
    with opened_browser() as driver:
        driver.set_script_timeout(60)
        yield driver


def all_of(browser, selector):
    return browser.find_elements(By.CSS_SELECTOR, selector)


def text(browser, selector):
    return browser.find_element(By.CSS_SELECTOR, selector).text


def press(browser, selector):
    browser.execute_script("document.querySelector(arguments[0]).click()", selector)


def open_runs(browser, url, theme="light"):
    browser.get(f"{url}?__theme={theme}")
    until(lambda: [tab for tab in all_of(browser, "button[role=tab]") if tab.text.strip() == "Runs"])
    browser.execute_script(
        "[...document.querySelectorAll('button[role=tab]')].find(tab => tab.textContent.trim() === 'Runs').click()"
    )
    until(lambda: all_of(browser, "#runs-list button"))


def pick(browser, name):
    """Choose a run of the list as a person does."""
    until(lambda: [one for one in all_of(browser, "#runs-list button") if one.text == name])
    script = "[...document.querySelectorAll('#runs-list button')].find(one => one.textContent === arguments[0]).click()"
    browser.execute_script(script, name)
    until(lambda: text(browser, "#runs-status").startswith(name))


def fill(browser, selector, words):
    field = until(lambda: browser.find_element(By.CSS_SELECTOR, f"{selector} input, {selector} textarea"))
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", field)
    field.clear()
    field.send_keys(words + "\t")


STICKS_OUT = """
const wide = document.documentElement.clientWidth;
return [...document.querySelectorAll('.gradio-container *')].filter(e => {
  const box = e.getBoundingClientRect();
  if (!box.width || !box.height || box.right <= wide + 1) return false;
  for (let p = e.parentElement; p; p = p.parentElement) if (getComputedStyle(p).overflowX != 'visible') return false;
  return true;
}).map(e => e.tagName + '.' + e.className).slice(0, 5)"""


@needs_browser
@pytest.mark.parametrize(("screen", "theme"), [("laptop", "light"), ("laptop", "dark"), ("phone", "light"), ("phone", "dark")])
def test_a_run_is_looked_at_and_a_sample_is_opened(browser, url, screen, theme):
    width, height, mobile = SCREENS[screen]
    with seen_on(browser, width, height, mobile=mobile, dark=theme == "dark"):
        open_runs(browser, url, theme)
        keep(browser, f"runs_{screen}_{theme}_list")
        pick(browser, "first")
        until(lambda: len(all_of(browser, "#runs-plot-0 svg path")) > 2)
        shown = [
            one.text for one in all_of(browser, "#runs-plots label, #runs-plots [data-testid=block-info]") if one.is_displayed()
        ]
        assert len([one for one in all_of(browser, "#runs-plots > *") if one.is_displayed()]) == 2, shown
        lefts = {one.rect["x"] for one in all_of(browser, "#runs-plots > *") if one.is_displayed()}
        assert len(lefts) == (1 if mobile else 2), "one a row on a phone"
        until(lambda: "half are cut off" in text(browser, "#runs-events"))
        until(lambda: all_of(browser, "#runs-numbers svg circle"))
        browser.execute_script("document.querySelector('#runs-plots').scrollIntoView()")
        keep(browser, f"runs_{screen}_{theme}_plots")
        until(lambda: len(all_of(browser, "#runs-rows button")) == 4)
        press(browser, "#runs-rows button")
        until(lambda: all_of(browser, "#runs-sample img"))
        assert all_of(browser, "#runs-sample img")[0].get_property("naturalWidth") > 0
        named = " ".join(one.get_property("textContent") for one in all_of(browser, "#runs-sample .vl-mark b"))
        assert "1.00" in named, "a box with its IoU"
        assert "<b>none</b>" in text(browser, "#runs-sample")
        assert "iou_f1" in text(browser, "#runs-sample")
        browser.execute_script("document.querySelector('#runs-sample').scrollIntoView()")
        keep(browser, f"runs_{screen}_{theme}_sample")
        assert browser.execute_script(STICKS_OUT) == []
        assert browser.execute_script("return document.documentElement.scrollWidth - window.innerWidth") <= 0
        assert browser.execute_script("return document.body.classList.contains('dark')") == (theme == "dark")
        press(browser, "#runs-start-form button")
        until(lambda: browser.find_element(By.CSS_SELECTOR, "#runs-start").is_displayed())
        found = faults(browser)
        assert not found, "\n".join(found)
        assert all_of(browser, "img:not([alt])") == []


@needs_browser
def test_two_runs_lie_over_each_other_and_the_choice_stays(browser, url, root):
    with seen_on(browser, 1366, 768):
        open_runs(browser, url)
        pick(browser, "first")
        browser.find_element(By.CSS_SELECTOR, "#runs-second input").click()
        until(lambda: [one for one in all_of(browser, "ul[role=listbox] li") if "second" in one.text])[0].click()
        until(lambda: [one.text for one in all_of(browser, "#runs-reading .vl-key")] == ["first", "second"])
        strokes = "return [...document.querySelectorAll('#runs-plot-0 path[stroke]')].map(one => one.getAttribute('stroke'))"
        until(lambda: set(LINE_COLOURS.values()) <= set(browser.execute_script(strokes)))  # both runs, raw and smoothed
        until(lambda: "before · second" in text(browser, "#runs-numbers"))
        browser.execute_script("document.querySelector('#runs-plots').scrollIntoView()")
        keep(browser, "runs_two")
        plot = browser.find_element(By.CSS_SELECTOR, "#runs-plot-0 svg")
        with (root / "first" / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": 41, "reward": 3.0, "entropy": 0.01}) + "\n")
        until(lambda: "step 41" in text(browser, "#runs-status"))
        assert "second" in text(browser, "#runs-numbers"), "both are still chosen"
        assert plot.is_displayed(), "the plot was not drawn anew, which would flicker"
        until(lambda: re.search(r"\b3(\.0)?\b", text(browser, "#runs-plot-0")))  # its axis has grown


@needs_browser
def test_a_run_is_started_seen_live_stopped_and_resumed_on_the_page(browser, url, root):
    folder = root / "mine"
    with seen_on(browser, 1366, 768):
        try:
            open_runs(browser, url)
            press(browser, "#runs-start-form button")
            fill(browser, "#start-steps", "3000")
            fill(browser, "#start-folder", "mine")
            fill(browser, "#start-flags", "--learning_rte 1e-4")
            press(browser, "#runs-start")
            until(lambda: "'learning_rate'" in text(browser, "#runs-said"))
            keep(browser, "runs_wrong_flag")
            assert not folder.exists()
            fill(browser, "#start-flags", " ".join(STEPS))
            press(browser, "#runs-start")
            until(lambda: "has started" in text(browser, "#runs-said"))
            pick(browser, "mine")
            until(lambda: re.search(r"step [1-9]\d* of 3000", text(browser, "#runs-status")), 180)
            until(lambda: "left" in text(browser, "#runs-status") and "s a step" in text(browser, "#runs-status"))
            until(lambda: len(all_of(browser, "#runs-plot-0 svg path")) > 2)
            assert "running" in text(browser, "#runs-list")
            keep(browser, "runs_live")
            before = step_of(browser)
            until(lambda: step_of(browser) > before)  # it is live
            until(lambda: browser.find_element(By.CSS_SELECTOR, "#runs-stop").is_displayed())
            press(browser, "#runs-stop")
            until(lambda: "stopped by SIGTERM" in text(browser, "#runs-status"))
            stopped_at = step_of(browser)
            assert (folder / f"checkpoint-{stopped_at}").is_dir()
            until(lambda: browser.find_element(By.CSS_SELECTOR, "#runs-resume").is_displayed())
            keep(browser, "runs_stopped")
            press(browser, "#runs-resume")
            until(lambda: "running" in text(browser, "#runs-status") and step_of(browser) > stopped_at, 180)
            steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
            assert steps == sorted(set(steps)), "each step once"
            press(browser, "#runs-start")
            until(lambda: "mine was started already and goes on" in text(browser, "#runs-said"))
        finally:
            end(folder)


def step_of(browser):
    return int(re.search(r"step (\d+) of", text(browser, "#runs-status"))[1])


def end(folder):
    """No process of this test outlives it."""
    pid = run_lock.holder_pid(folder)
    if pid is not None:
        os.kill(pid, signal.SIGKILL)


@needs_browser
def test_nobody_else_sees_the_buttons(browser, root, tmp_path):
    address, server = serve(root, tmp_path, "--read_only")
    try:
        open_runs(browser, address)
        pick(browser, "first")
        assert not all_of(browser, "#runs-start-form, #runs-stop, #runs-resume")
    finally:
        server.kill()


def test_a_request_from_elsewhere_starts_nothing(url, root):
    from gradio_client import Client
    from gradio_client.exceptions import AppError

    words = {
        "task": "detection",
        "config": "none: the task's own settings",
        "model": "",
        "steps": 1,
        "folder": "theirs",
        "flags": "",
    }
    for headers in ({"X-Forwarded-For": "1.2.3.4"}, {"Origin": "https://evil.example"}, {"Via": "1.1 proxy"}):
        client = Client(url, verbose=False, headers=headers)
        for name, sent in (("/begin", words), ("/end", {"first": "first"}), ("/go_on", {"first": "first"})):
            with pytest.raises(AppError, match="only in a browser on the machine"):
                client.predict(api_name=name, **sent)
    assert not (root / "theirs").exists()


def test_training_that_is_interrupted_or_killed_is_called_so(tmp_path):
    from demos import run_list

    folder = tmp_path / "run"
    command = [sys.executable, "-m", "vlrl.train", "--max_steps", "3000", *STEPS, "--output_dir", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for number, state, why, n_steps in (
        (signal.SIGINT, "stopped", "stopped by Ctrl-C", 1),
        (signal.SIGKILL, "killed", "its process is gone", 0),  # it was resumed, and loads
        (signal.SIGKILL, "killed", "its process is gone", 1),
    ):
        training = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            steps = logged_steps(folder) + n_steps
            until(lambda steps=steps: logged_steps(folder) >= steps and run_lock.holder(folder), 240)
            assert "running" in listed(tmp_path)
            training.send_signal(number)
            if number == signal.SIGKILL:  # its parent has not asked for its end yet
                until(lambda: not run_lock.holder(folder))
                assert ">killed<" in run_list.about("run", folder)
            training.wait(120)
        finally:
            training.kill()
            training.wait()
        assert f" {state} " in listed(tmp_path)
        assert f">{state}<" in run_list.about("run", folder)
        assert why in run_list.about("run", folder)
        command = [*command, "--resume_from_checkpoint", "true"]


def logged_steps(folder):
    path = folder / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.is_file() else 0


def listed(folder):
    command = [sys.executable, "-m", "vlrl.bench.console", "runs", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
