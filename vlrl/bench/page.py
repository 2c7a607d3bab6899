"""`report.html`: one file with a scorecard, and folded below it all numbers and every answer with its images and boxes.

Everything is inside (images as base64, style, script, answers as JSON), so it opens without a network, and the browser is
told to run the page's own script only. What is not `Markup` is escaped (`vlrl.data.markup`); the script writes text as text
alone. The answers are drawn when they are unfolded, some at a time.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlrl.bench.page_answers import Answer, answers_json, answers_of
from vlrl.bench.page_card import all_numbers, scorecard
from vlrl.bench.page_images import N_IMAGES, PageImages
from vlrl.bench.suite import Suite
from vlrl.data.files import write_whole
from vlrl.data.markup import Markup, in_json, joined, markup
from vlrl.schema import Prediction, Sample
from vlrl.tasks.evaluate import Scored

_ASSETS = Path(__file__).parent / "page_assets"
STYLE = (_ASSETS / "report.css").read_text(encoding="utf-8")
SCRIPT = (_ASSETS / "report.js").read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


POLICY = (
    f"default-src 'none'; img-src data:; style-src 'sha256-{_hash(STYLE)}'; script-src 'sha256-{_hash(SCRIPT)}';"
    " base-uri 'none'; form-action 'none'"
)


def write_page(
    path: Path,
    suite: Suite,
    samples: Sequence[Sample],
    predictions: Mapping[str, Prediction],
    scored: Sequence[Scored],
    result: Mapping[str, Any],
    n_images: int = N_IMAGES,
) -> tuple[list[Answer], PageImages]:
    """Write the page of a scored run; images that do not exist are marked as missing. `n_images`: those of the worst answers
    are inside, at most so many. Returns the answers and images that it shows."""
    answers, n_hidden = answers_of(suite, scored, {sample.id: sample for sample in samples}, predictions)
    data, images = answers_json(suite, scored, answers, n_images)
    body = [
        _top(suite, result),
        joined(scorecard(one, number) for number, one in enumerate(scored)),
        _folded("All numbers", joined(map(all_numbers, scored))),
        _answers(len(answers), n_hidden, images.n_left_out, len(images.thumbnails)),
        _folded("About this run", _facts(result)),
    ]
    text = markup(
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" content="{}"><meta name="viewport" content="width=device-width">'
        "<title>{}</title><style>{}</style></head>\n<body><main>{}</main>\n"
        '<script type="application/json" id="answers-data">{}</script>\n'
        '<script type="application/json" id="images-data">{}</script>\n'
        "<script>{}</script></body></html>\n",
        POLICY, f"{suite.name}, {result.get('model')}", Markup(STYLE), joined(body), in_json(data), in_json(images.to_json()),
        Markup(SCRIPT),
    )  # fmt: skip
    write_whole(path, text)
    return answers, images


def _top(suite: Suite, result: Mapping[str, Any]) -> Markup:
    data = result.get("data") or {}
    about = [str(value) for value in (data.get("description"), result.get("engine"), result.get("date")) if value is not None]
    n_failed = int(result.get("n_failed") or 0) if str(result.get("n_failed") or 0).isdigit() else 0
    failed = f"{n_failed:,} requests failed; their samples are in no number. The same command repeats them."
    return markup(
        '<header><h1>{}</h1><button type="button" id="theme" aria-pressed="false" hidden>dark</button>'
        '<p class="small">{}</p></header>{}',
        f"{suite.name}, {result.get('model')}", " · ".join(about),
        markup('<p class="note">{}</p>', failed) if n_failed else markup(""),
    )  # fmt: skip


def _folded(title: str, content: Markup) -> Markup:
    return markup("<details><summary>{}</summary>{}</details>", title, content)


def _answers(n: int, n_hidden: int, n_without_image: int, n_images: int) -> Markup:
    """The fold that the script fills."""
    if not n and not n_hidden:
        return markup("")
    notes = []
    if n_hidden:
        notes.append(f"{n_hidden:,} answers are not shown on this page: they may describe people or places.")
    if n_without_image:
        notes.append(
            f"{n_images:,} images are in this file, those of the worst answers; {n_without_image:,} are not"
            " (--report_images sets how many)."
        )
    if not n:
        return markup('<p class="small">{}</p>', " ".join(notes))
    return markup(
        '<details id="answers"><summary>Answers ({}), the worst first</summary>{}'
        '<noscript><p class="note">A script in this file draws the answers, and this browser does not run it.</p></noscript>'
        '<div id="answers-here"></div></details>',
        f"{n:,}", joined(markup('<p class="small">{}</p>', note) for note in notes),
    )  # fmt: skip


def _facts(result: Mapping[str, Any]) -> Markup:
    data = result.get("data") or {}
    facts = {
        "model": result.get("model"),
        "engine": result.get("engine"),
        "data": f"{data.get('description')} ({data.get('n')} samples, SHA-256 {str(data.get('sha256'))[:16]}…)",
        "seed": result.get("seed"),
        "date": result.get("date"),
        "git revision": result.get("git_hash"),
        "counts": ", ".join(
            f"{key} {result.get(key, 0)}" for key in ("n_unparsed", "n_truncated", "n_missing_image", "n_failed")
        ),
    }
    rows = (markup("<dt>{}</dt><dd>{}</dd>", key, value) for key, value in facts.items() if value is not None)
    return markup("<dl>{}</dl>", joined(rows))
