"""The page about training data: its numbers are those of the rows, text stays text, and what cannot be shown is said."""

import json
import re

import numpy as np
import pytest
from PIL import Image
from test_hostile_text import EVENTS, HOSTILE, Seen

from vlrl.bench import look, look_copies, main
from vlrl.bench.console import main as vlrl
from vlrl.bench.look_numbers import numbers_of
from vlrl.bench.look_page import LOOK_POLICY
from vlrl.schema import Sample

pytestmark = pytest.mark.quick


def picture(path, number, size=(120, 90), scale=1.0, quality=95):
    rng = np.random.default_rng(number)
    small = Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8))
    image = small.resize(size, Image.Resampling.BICUBIC)
    image.resize((round(size[0] * scale), round(size[1] * scale))).save(path, quality=quality)
    return path.name


@pytest.fixture
def data(tmp_path):
    """Twelve rows with boxes, some questions, copies, a broken image."""
    rows = []
    for i in range(12):
        name = picture(tmp_path / f"{i}.jpg", i)
        boxes = [{"bbox_2d": [10, 10, 40 + i, 50], "label": "cat"}] * (i % 3 > 0)
        rows.append(
            {
                "id": f"d{i}",
                "task": "detection",
                "images": [name],
                "question": "cat",
                "answer": boxes,
                "meta": {"categories": ["cat"]},
            }
        )
    copy = picture(tmp_path / "copy.jpg", 3, scale=0.5, quality=70)
    rows.append({"id": "copy", "task": "qa", "images": [copy], "question": "How many?", "answer": "3"})
    (tmp_path / "broken.jpg").write_bytes((tmp_path / "1.jpg").read_bytes()[:900])
    rows.append({"id": "broken", "task": "qa", "images": ["broken.jpg"], "question": "How many?", "answer": "3"})
    rows.append({"id": "gone", "task": "qa", "images": ["gone.jpg"], "question": "How many?", "answer": "4"})
    rows.append({"id": "mine", "task": "my_own", "images": ["0.jpg"], "question": "q", "answer": {"a": 1}})
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


class Words(Seen):
    """Text of neighbouring cells with a space between."""

    def handle_data(self, data):
        self.text += f"{data} "


def page_of(path, out, *words):
    assert vlrl(["data", "look", "--data", str(path), "--out", str(out), *map(str, words)]) == 0
    text = out.read_text(encoding="utf-8")
    return text, " ".join(Words(text).text.split())


def test_a_page_of_several_tasks(data, tmp_path, capsys):
    out = tmp_path / "page.html"
    text, seen = page_of(data, out)
    assert capsys.readouterr().out.splitlines()[-1] == str(out)
    assert "detection: 12 rows" in seen
    assert "cat 8 8 4" in seen, "boxes, rows with it, asked and none there"
    assert "3 2 66.7%" in seen, "answers of qa"
    assert "2 of 15 images cannot be shown, the first: cannot read image" in seen
    assert "1 of 16 rows ask what an earlier row asks" not in seen
    assert "no task is named 'my_own'; give its file: --task my_task.py" in seen
    assert text.count("<details>") == 16, "each sample has its prompt"
    assert text.count("data:image/jpeg;base64,") >= 14
    tags = Seen(text).tags
    assert not {"script", "iframe", "link", "object", "form"} & tags
    assert any(value == LOOK_POLICY for _, value in Seen(text).attributes)
    assert not re.search(r'(?:src|href)="(?!data:)', text), "nothing is loaded"


def test_the_prompt_is_that_of_the_flags(data, tmp_path, capsys):
    words = ["--system_prompt", "You see cells.", "--prompt_template", "Careful now. {question}", "--answer_format", "answer"]
    _, seen = page_of(data, tmp_path / "page.html", *words)
    assert "(system) You see cells. Careful now. How many?" in seen
    assert vlrl(["data", "look", "--data", str(data), "--prompt_template", "no place"]) == 2
    assert "--prompt_template has no {question}" in capsys.readouterr().err


def test_the_same_seed_draws_the_same_page(data, tmp_path):
    first, _ = page_of(data, tmp_path / "a.html", "--n_samples", 4, "--n_images", 5)
    again, _ = page_of(data, tmp_path / "b.html", "--n_samples", 4, "--n_images", 5)
    other, seen = page_of(data, tmp_path / "c.html", "--n_samples", 4, "--n_images", 5, "--seed", 1)
    assert first == again != other
    assert "4 of 16, drawn by seed 1" in seen
    assert "5 were opened, drawn from 15" in seen


def test_copies_are_shown(data, tmp_path):
    pytest.importorskip("imagehash")
    _, seen = page_of(data, tmp_path / "page.html")
    assert "one group of images looks alike and is not known to be one picture" in seen
    assert "d3" in seen.partition("Images that look alike")[2]
    assert "copy" in seen.partition("Images that look alike")[2]


def test_without_the_library_the_page_says_so(data, tmp_path, monkeypatch):
    for module in (look, look_copies):
        monkeypatch.setattr(module, "can_compare", lambda: False)
    _, seen = page_of(data, tmp_path / "page.html")
    assert "Not looked for: the library imagehash is missing (pip install 'vlrl[data]')" in seen


def test_text_stays_text(tmp_path):
    """In every field of a row, file names included."""
    rows = []
    for i, hostile in enumerate(HOSTILE):
        hostile = hostile.encode("utf-8", "replace").decode()
        name = f"{i} <img src=x onerror=1> {hostile[:20].replace('/', '_')}".replace("\0", "") + ".png"
        picture(tmp_path / name, i)
        rows.append(
            {
                "id": f"{i}{hostile}",
                "task": "detection",
                "images": [name],
                "question": hostile,
                "meta": {"categories": [hostile], hostile[:50]: hostile},
                "answer": [{"bbox_2d": [1, 1, 9, 9], "label": hostile}],
            }
        )
        rows.append(
            {
                "id": f"q{i}{hostile}",
                "task": "qa",
                "question": hostile,
                "answer": hostile,
                "choices": [hostile, "b"] if i % 2 else None,
            }
        )
        rows.append({"id": f"u{i}", "task": hostile, "question": hostile, "answer": {hostile: hostile}})
    path = tmp_path / "<b>rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    text, seen = page_of(path, tmp_path / "page.html")
    found = Seen(text)
    assert not {"script", "iframe", "svg/onload", "b>x"} & found.tags
    assert not [name for name, _ in found.attributes if EVENTS.match(name)]
    assert {
        value for name, value in found.attributes if name == "src" and not value.startswith("data:image/jpeg;base64,")
    } == set()
    assert "<span onmouseover=alert(1)>over</span>" in seen


def test_numbers_and_remarks():
    box = {"bbox_2d": [0, 0, 30, 40], "label": "a"}
    rows = [
        Sample(f"{i}", "detection", "a", [box] if i < 4 else [], ("x",), meta={"categories": ["a", "A"]}) for i in range(12)
    ]
    rows += [Sample(f"c{i}", "classification", "?", "left") for i in range(10)]
    rows += [Sample(f"g{i}", "grounding", "the a", {"bbox_2d": [90, 90, 120, 130]}, ("x",)) for i in range(3)]
    found = numbers_of(rows, {"x": (100, 100)}, {})
    one = found["detection"]
    assert (one.categories["a"].n_boxes, one.categories["a"].n_rows, one.categories["a"].n_absent) == (4, 4, 8)
    assert one.categories["A"].n_absent == 12
    assert one.shares == pytest.approx([0.12**0.5] * 4)
    said = " ".join(one.remarks())
    assert "67% of the rows have no box" in said
    assert "categories in several spellings: 1, such as 'A', 'a'" in said
    assert found["classification"].remarks() == ["all 10 answers are 'left': there is nothing to learn but this answer"]
    assert "boxes without area, outside their image, or of another form: 3" in found["grounding"].remarks()[0]


def test_check_writes_the_page_with_the_bad_rows(data, tmp_path, capsys):
    lines = [line for line in data.read_text().splitlines() if '"gone"' not in line]
    data.write_text("\n".join(lines))
    out = tmp_path / "check.html"
    assert main(["check", "--data", str(data), "--pictures", str(out)]) == 1
    said = capsys.readouterr()
    assert f"pictures         {out}" in said.out
    seen = " ".join(Seen(out.read_text()).text.split())
    assert "(id 'mine'): no task is named 'my_own'" in seen
    assert "(id 'broken'): cannot read image" in seen


def test_a_name_that_is_no_page_is_refused(data, capsys):
    before = data.read_text()
    assert vlrl(["data", "look", "--data", str(data), "--out", str(data)]) == 2
    assert "the page is HTML; give a name that ends in .html" in capsys.readouterr().err
    assert data.read_text() == before
    assert vlrl(["data", "look", "--data", "none.jsonl"]) == 2
    assert "none.jsonl: no such file" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        vlrl(["data"])
