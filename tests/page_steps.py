"""What a visitor does on the page in a browser, and what axe-core finds there."""

import importlib.util
from pathlib import Path

import pytest
from browser import until
from selenium.webdriver.common.by import By

SCREENS = {"laptop": (1366, 768, False), "phone": (390, 844, True)}
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
KNOWN_FAULTS = {
    ("svg-img-alt", "brush_brush"): "the invisible surface of gradio's plots on which steps are chosen; no option names it",
}
"""(rule, words of the element) -> why it stays: faults in gradio's own markup that no option of it mends."""


def axe_script():
    """axe-core's code, from the package that ships it; its Python is not used."""
    found = importlib.util.find_spec("axe_playwright_python")
    if found is None:
        pytest.skip("axe-core is not installed; pip install -e '.[test]'")
    return (Path(found.submodule_search_locations[0]) / "axe.min.js").read_text(encoding="utf-8")


def faults(browser):
    """What axe-core calls serious or critical on the page as it stands, but for `KNOWN_FAULTS`."""
    if browser.execute_script("return typeof axe") == "undefined":
        browser.execute_script(axe_script())
    run = "const done = arguments[1]; axe.run(document, {runOnly: arguments[0]}).then(found => done(found.violations))"
    found = []
    for one in browser.execute_async_script(run, RULES):
        for node in one["nodes"] if one["impact"] in ("serious", "critical") else ():
            selector = " ".join(map(str, node["target"]))
            if not any(one["id"] == rule and words in node["html"] for rule, words in KNOWN_FAULTS):
                found.append(f"{one['id']}: {selector}: {node['html'][:120]}: {[why['message'] for why in node['any']][:1]}")
    return found


def find(browser, selector):
    return browser.find_element(By.CSS_SELECTOR, selector)


def find_all(browser, selector):
    return browser.find_elements(By.CSS_SELECTOR, selector)


def text(browser, selector):
    return find(browser, selector).text


def seen(browser, selector):
    """The element once it is there and shown."""
    return until(lambda: (one := find(browser, selector)).is_displayed() and one)


def has_image(browser, selector):
    return find(browser, f"{selector} img").get_property("naturalWidth") > 0


def open_page(browser, address, tab="Try", query=""):
    """Opens the page and one of its tabs; waits for its first example."""
    browser.get(f"{address}/?{query}")
    until(lambda: has_image(browser, "#try-image") if "tab=grade" not in query else has_image(browser, "#grade-image"))
    if tab != "Try":
        until(lambda: [one for one in find_all(browser, "button[role=tab]") if one.text.strip() == tab])[0].click()


def fill(browser, selector, words):
    """Puts a text into a field in place of what stands there, as pasting does; signs that no key types, too."""
    field = seen(browser, selector)
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'}); arguments[0].focus(); arguments[0].select()", field)
    browser.execute_cdp_cmd("Input.insertText", {"text": words})


def choose(browser, selector, name):
    """One entry of a list."""
    seen(browser, f"{selector} input").click()
    until(lambda: [one for one in find_all(browser, "ul[role=listbox] li") if name == one.text.strip().lstrip("✓").strip()])[
        0
    ].click()
