"""Text that wants to run in the reader's browser, in every field of a run, a result and a data row: the page and the report show
it as text."""

import ast
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import gradio as gr
import pytest
from PIL import Image

from demos import completions, components, figures, matching, page, run_answers, run_plots, runs, runs_tab, scoring
from demos.components import Choice, Html, Name, Number, Text
from demos.grading import Grading, link_to
from demos.page_tasks import PageTasks
from demos.run_control import Control
from demos.run_sample import opened
from vlrl.bench.page import POLICY, SCRIPT, STYLE, write_page
from vlrl.bench.suite import Suite
from vlrl.data.markup import MAX_SHOWN, Markup, escaped, markup, plot_label, readable
from vlrl.schema import Box, Metric, Prediction, Sample, Task
from vlrl.tasks import TASKS
from vlrl.tasks.evaluate import OUTCOMES, Row, Scored
from vlrl.training.curves import Panel, draw_panels

pytestmark = pytest.mark.quick
ROOT = Path(__file__).resolve().parent.parent

HOSTILE = (
    "<span onmouseover=alert(1)>over</span>",
    "<span class='vl-text'><img src=x onerror=window.__pwned=1></span>",
    "<img src=x onerror=window.__pwned=1>",
    '"><script>window.__pwned=1</script>',
    "'><svg/onload=window.__pwned=1>",
    "</pre></details></div></script><iframe srcdoc='<script>parent.__pwned=1</script>'>",
    '[read](javascript:window.__pwned=1) ![x](x" onerror="window.__pwned=1)',
    "${window.__pwned=1} {{constructor.constructor('window.__pwned=1')()}}",
    "{} {0} {value.__class__} %s",
    "$\\frac{$ _under \\",
    "lone \ud83d surrogate \udc80, bell \x07, escape \x1b[31m, zero \x00, backwards \u202etxt.exe\u202c",
    "long " + "<b>x" * 30_000,
)
EVENTS = re.compile(r"^on", re.IGNORECASE)


class Seen(HTMLParser):
    """Tags and attributes that a browser would find."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text = set(), [], ""
        self.feed(str(text))

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


def check(text, *, own_tags):
    seen = Seen(text)
    assert seen.tags <= own_tags, seen.tags - own_tags
    links = [
        (name, value)
        for name, value in seen.attributes
        if name in ("src", "href") and not value.startswith(("data:image/", OWN_LINK))
    ]
    bad = links + [(name, value) for name, value in seen.attributes if EVENTS.match(name)]
    assert not bad, bad
    text.encode("utf-8")
    assert not re.search("[\x00-\x08\x0b-\x1f\u202e]", text)
    return seen.text


PAGE_TAGS = {"div", "span", "b", "table", "thead", "tbody", "tr", "th", "td", "wbr", "p", "h1", "h3", "i", "button", "strong"}
PAGE_TAGS |= {"svg", "line", "circle", "details", "summary", "img"}
PAGE_TAGS |= {"h2", "ul", "ol", "li", "figure", "figcaption", "rect", "text", "a"}
OWN_LINK = "?tab=grade&"
REPORT_TAGS = PAGE_TAGS | {
    "html", "head", "meta", "title", "style", "body", "h2", "h3", "dl", "dt", "dd", "pre", "button", "details", "summary",
    "figure", "figcaption", "script", "svg", "rect", "ul", "li", "main", "header", "section", "noscript",
}  # fmt: skip


def filled(value, shape):
    """`shape` with `value` in the place of every string, as a key too."""
    if isinstance(shape, dict):
        return {f"{key}{value}" if key.startswith("*") else key: filled(value, one) for key, one in shape.items()}
    return [filled(value, one) for one in shape] if isinstance(shape, list) else value if isinstance(shape, str) else shape


def write_hostile_run(folder, text):
    """A run with `text` in every field, strings where numbers belong included."""
    (folder / "completions").mkdir(parents=True)
    (folder / "config.yaml").write_text("task: detection\n")
    metric = {"value": 0.5, "ci95": ["", ""], "n": 3}
    wrong = {"value": "", "ci95": "", "n": ""}
    summary = {"task": "", "model": "", "stage": "", "seed": "", "after": {"*a": metric, "*b": wrong, "*c": ""}, "before": ""}
    verdict = {"value": 0.5, "answer": "", "why": ""}
    rows = [
        {"id": "", "completion": "", "rewards": {"*r": verdict, "*w": {"value": "", "why": ""}, "*s": ""}, "advantage": ""},
        {"id": "", "completion": 3, "rewards": "", "advantage": 10**400},
        {"id": None, "completion": [""], "rewards": {"*r": [""]}, "truncated": ""},
    ]
    side = {"value": "", "outcome": "", "answer": ""}
    held_out = [
        {"id": "", "question": "", "ground_truth": "", "change": "", "before": side, "after": side},
        {"id": [""], "question": None, "ground_truth": {"*": ""}, "change": 10**400, "before": "", "after": None},
    ]
    log = [{"step": 1, "reward": 0.5, "rewards/*/mean": 0.1}, {"step": 2, "reward": 1e308}, {"step": "", "reward": ""}]
    log[0] = {"step": 1, "reward": 0.5, f"rewards/{text}/mean": 0.1, "thoughts/valid": text}
    (folder / "summary.json").write_text(json.dumps(filled(text, summary)))
    for name, lines in (
        ("metrics.jsonl", log), ("held_out.jsonl", held_out), ("completions/step_000001.jsonl", rows),
        ("predictions_after.jsonl", [{"id": "", "truncated": ""}]),
        ("events.jsonl", [{"step": "", "event": "", "message": "", "what_to_try": "", "samples": [""]}, {"samples": ""}]),
    ):  # fmt: skip
        (folder / name).write_text("".join(json.dumps(filled(text, line)) + "\n" for line in lines))
    Image.new("RGB", (60, 40), "white").save(folder / "samples.png")
    return folder


def test_every_field_of_a_run_is_text_on_the_page(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "cache"))
    for number, text in enumerate(HOSTILE):
        folder = write_hostile_run(tmp_path / "runs" / str(number), text)
        shelf = runs.Runs(tmp_path / "runs")
        about, warnings, _, *_, numbers, image, _ = runs_tab.View(shelf, Control(shelf)).show({text: folder, "b": folder})
        about += warnings
        check(runs_tab.View(shelf, Control(shelf)).list_now(str(number)), own_tags=PAGE_TAGS)
        assert "<img class='vl-samples'" in image
        beginning = readable(text)[:20].strip()
        for shown in (about, numbers, runs_tab.answers_of(folder, "step 1", "all")):
            # Numbers of single classes, `name[class]`, are left out.
            assert beginning in check(shown, own_tags=PAGE_TAGS) or (shown is numbers and "[" in text)
        for which in run_answers.logged(folder):
            for chosen in run_answers.FILTERS:
                table = runs_tab.answers_of(folder, which, chosen)
                assert isinstance(table, Markup)
                check(table, own_tags=PAGE_TAGS)
            for place in range(3):
                check(opened(folder, which, place), own_tags=PAGE_TAGS)


@pytest.mark.parametrize("text", HOSTILE)
def test_every_text_of_the_other_tabs_is_text(text):
    scored = [scoring.Scored(text, value, text, text, 0, high) for value in (0.5, None) for high in (1, float("inf"))]
    sample = Sample(text, "qa", text, text)
    shown = [page.rewards(scored), page.box(text, text, text), page.table([text], [[text], [page.name(text)]]), page.note(text)]
    shown += [
        completions.group(TASKS["qa"], sample, [text, "x"], [scored, scored])[1],
        page.problem(text, text),
        page.verdict(text),
    ]
    boxes = [Box(1, 2, 30, 40, text), Box(1, 2, 30, 40, "x")]
    compared = matching.Compared(boxes, boxes[:1], matching.pairs_of(boxes[:1], boxes))
    image = Image.new("RGB", (60, 40))
    shown += [figures.figure([image, image], text + matching.described(compared), matching.marks(compared), 1, text)]
    shown += [figures.gallery([(image, text), (None, text)], 1), matching.table(compared), link_to(text, text, text)]
    shown += [completions.explained(text, sample, scored, compared), completions.said(text, sample, compared)]
    shown += [Grading(PageTasks()).grade(text, text, text)[1]]
    for one in shown:
        check(one, own_tags=PAGE_TAGS)
    check(page.error(text).message, own_tags=set())
    assert len(page.error(text).message) < 4000
    Text(render=False).postprocess(text).encode("utf-8")
    check(Html(render=False).postprocess(text), own_tags=set())
    assert Html(render=False).postprocess(markup("<b>{}</b>", "x")) == "<b>x</b>"


def test_every_field_of_a_result_and_a_data_row_is_text_in_the_report(tmp_path):
    text = "".join(HOSTILE)
    task = Task(name=text, prompt=lambda sample: sample.question, rewards=["exact_match"], metric=lambda s, p: 1, system=text)
    samples = [Sample(one, text, one, one, images=(f"{tmp_path}/{one[:20]}",)) for one in HOSTILE]
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    samples.append(Sample("there", text, text, text, images=(str(tmp_path / "a.png"),)))
    predictions = {sample.id: Prediction(sample.id, sample.question, 5, i == 1) for i, sample in enumerate(samples)}
    rows = [Row(one.id, "", {text: (1, 1), "b": (0, 0)}, OUTCOMES[i % 4], one.id, one.id) for i, one in enumerate(samples)]
    rows.append(Row("there", "", {}, "wrong"))
    extra = {"confusion": {text: {one: {f"{one}{one}": 3 for one in HOSTILE} for one in HOSTILE}, "odd": text}}
    metrics = {one: Metric(0.5, (0.4, 0.6), 4) for one in (*HOSTILE, "_hidden", f"a[{text}]")}
    suite = Suite(text, {text: task}, None, (), None, None, boxes=True)
    scored = Scored(text, text, HOSTILE[0], metrics, rows, 4, 0, 0, label=text, extra=extra)
    result = dict.fromkeys(("model", "engine", "seed", "date", "git_hash", "n_failed"), text)
    result["data"] = {"description": text, "n": text, "sha256": text}
    write_page(tmp_path / "report.html", suite, samples, predictions, [scored], result)
    written = (tmp_path / "report.html").read_text(encoding="utf-8")
    shown = check(written.replace(SCRIPT, "").replace(STYLE, ""), own_tags=REPORT_TAGS)
    assert all(readable(one)[:20].strip() in shown for one in HOSTILE)
    assert escaped(POLICY) in written
    assert written.count("<script") == written.count("</script>") == 3, "no text ends or opens a script"
    assert written.count("<!--") == 0, "nor changes how one is read"
    data = json.loads(re.search(r'id="answers-data">(.*?)</script>', written)[1])
    for row, one in zip(data["rows"], samples, strict=False):
        for key in ("i", "q", "g", "a", "c"):
            assert row[key][:100] == readable(one.id if key in "iga" else one.question)[:100], key
        assert row["o"] in range(4)
    assert data["tasks"][0]["system"][:50] == readable(text)[:50]
    assert len(data["rows"]) == len(samples) + 1
    assert max(len(row["c"]) for row in data["rows"]) < 5000


def test_labels_of_plots_are_text(tmp_path):
    draw_panels([Panel("curves", {text: ([1, 2], [1.0, 2.0]) for text in HOSTILE})], tmp_path / "curves.png")
    assert plot_label("$x$ _") == r"\$x\$ _"
    assert plot_label("_hidden").strip() == "_hidden"
    assert len(plot_label(HOSTILE[-1])) <= 60
    row = {"step": 1, "reward": 1e308, **{f"rewards/{text}/mean": 0.5 for text in HOSTILE[:-1]}}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row) + "\n" + json.dumps({**row, "step": 2, "reward": -1e308}))
    for plot in run_plots.run_plots({HOSTILE[0]: tmp_path}):
        assert "\u202e" not in plot.title, "nothing that cannot be seen"
        assert json.dumps(plot.rows, allow_nan=False)
        assert len(plot.title) < 80


def test_text_is_cut_and_spelled_out():
    assert readable("a\ud83d\x1b\u202eb\tc\r\nd") == "a\\ud83d\\u001b\\u202eb\tc\nd"
    assert escaped("x" * (MAX_SHOWN + 5)).endswith(" … (5 more characters)")
    assert markup("<i title='{}'>{}</i>", "'\"<", markup("<b>{}</b>", "<")) == "<i title='&#39;&#34;&lt;'><b>&lt;</b></i>"


def test_components_check_what_is_sent_to_them():
    with gr.Blocks():
        choice, name, text, number = Choice(["a<b", "c"]), Name(["x"]), Text(), Number()
    for component, good, bad in (
        (choice, ["c"], ["b", None, ["c"], {"a": 1}, 3]),
        (name, ["y", None], [["y"], "y" * 501, 3]),
        (text, ["x" * components.MAX_TEXT, None], ["x" * (components.MAX_TEXT + 1), 3, ["x"]]),
        (number, [0, 3.7, None], [-1, float("nan"), float("inf"), 10**400, "3", True]),
    ):
        for value in good:
            assert component.preprocess(value) == (int(value) if component is number and value is not None else value)
        for value in bad:
            with pytest.raises(gr.Error) as refused:
                component.preprocess(value)
            assert "a<b" not in refused.value.message, "the entries are not named"


def test_markup_is_made_from_templates_in_the_code_alone():
    """`Markup(...)` and `markup(...)` take literals, or constants of the file; messages go through `page.error`."""
    found = []
    for path in (*(ROOT / "demos").glob("*.py"), *(ROOT / "vlrl").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)) if re.search(r"arkup\(|\bgr\.", text) else ():
            if not isinstance(node, ast.Call):
                continue
            name, first = ast.unparse(node.func), node.args[0] if node.args else None
            if name in ("Markup", "markup") and path.name != "markup.py":
                options = [first.body, first.orelse] if isinstance(first, ast.IfExp) else [first]
                literal = all(
                    (isinstance(one, ast.Constant) and isinstance(one.value, str))
                    or (isinstance(one, ast.Name) and one.id.isupper())
                    for one in options
                )
                if not literal:
                    found.append(f"{path.name}:{node.lineno}: {ast.unparse(node)[:80]}")
            shows = re.fullmatch(
                r"gr\.(HTML|Markdown|Error|Warning|Info|Dataframe|HighlightedText|Dropdown|Textbox|Code)", name
            )
            if shows and (path.name, name) != ("page.py", "gr.Error"):
                found.append(f"{path.name}:{node.lineno}: {name}")
    assert not found
