"""`tree.html`: the trees of `vlrl bench sample` to look at. One file without script; every text is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlrl.data.files import write_whole
from vlrl.data.markup import Markup, joined, markup

N_TREES = 200
"""Rows on the page, the first; `tree.json` holds all."""
N_COMPLETIONS = 8
"""Completions shown of a state."""
_STYLE = """:root{color-scheme:light dark;--line:#ccc;--soft:#666;--low:#c62828;--high:#2e7d32;--back:#fff;--text:#222}
@media(prefers-color-scheme:dark){:root{--line:#444;--soft:#aaa;--low:#ef9a9a;--high:#a5d6a7;--back:#161616;--text:#e4e4e4}}
body{font:15px/1.45 system-ui,sans-serif;margin:2em auto;max-width:1100px;padding:0 1em;background:var(--back)}
body{color:var(--text)}
details{margin:.2em 0 .2em 1em;border-left:2px solid var(--line);padding-left:.7em}
summary{cursor:pointer;overflow-wrap:anywhere}
section{border-top:1px solid var(--line);margin-top:1.2em;padding-top:.6em}h2{font-size:1.05em;overflow-wrap:anywhere}
.value{display:inline-block;min-width:5.5em;font-variant-numeric:tabular-nums;font-weight:600}
.low{color:var(--low)}.high{color:var(--high)}.soft{color:var(--soft);font-size:13px}
pre{white-space:pre-wrap;overflow-wrap:anywhere;margin:.2em 0}ul{margin:.2em 0;padding-left:1.2em}"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def write_tree_page(path: Path, header: Mapping[str, Any], trees: Sequence[Mapping[str, Any]]) -> None:
    """Write the page of `tree.json`'s trees."""
    facts = ", ".join(f"{name} {value}" for name, value in header.items())
    more = f"; the first {N_TREES} of {len(trees)} rows" if len(trees) > N_TREES else ""
    body = joined(_tree(one) for one in trees[:N_TREES])
    page = markup(
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{}">'
        '<meta name="viewport" content="width=device-width"><title>Step values</title><style>{}</style></head><body>'
        '<h1>Step values</h1><p class="soft">{}{}</p>{}</body></html>\n',
        _POLICY,
        Markup(_STYLE),
        facts,
        more,
        body,
    )
    write_whole(path, str(page))


def _tree(tree: Mapping[str, Any]) -> Markup:
    children: dict[int | None, list[Mapping[str, Any]]] = {}
    for state in tree["states"]:
        children.setdefault(state["parent"], []).append(state)
    errors = [
        markup("<li>completion {} of state {}: step {}: {}</li>", one["number"], one["state"], one["first_error"], one["step"])
        for one in tree["first_errors"]
    ]
    listed = markup('<div class="soft">first errors<ul>{}</ul></div>', joined(errors)) if errors else Markup("")
    return markup(
        '<section><h2>{}</h2><p>{}</p><p class="soft">answer {}; {} completions</p>{}{}</section>',
        tree["id"],
        tree["question"],
        tree["answer"],
        tree["n_completions"],
        _states(children),
        listed,
    )


def _states(children: Mapping[int | None, Sequence[Mapping[str, Any]]]) -> Markup:
    """The states nested by parent, innermost made first: a long solution is a deep tree, deeper than Python calls itself."""
    order = list(children.get(None, ()))
    for state in order:
        order += children.get(state["id"], ())
    made: dict[int, Markup] = {}
    for state in reversed(order):
        below = joined(made.pop(one["id"]) for one in children.get(state["id"], ()))
        made[state["id"]] = _state(state, below)
    return joined(made.values())


def _quality(found: Mapping[str, Any] | None) -> str:
    """What ReST-MCTS* infers of a state, in words; "" where it infers nothing."""
    if not found or found["distance"] is None:
        return ""
    left = f"{found['distance']} steps from a right answer" if found["leads"] else "leads to no right answer"
    return f"; quality {found['value']:.2f}, {left}"


def _state(state: Mapping[str, Any], below: Markup) -> Markup:
    value = state["value"]
    shown = "no value" if value is None else f"{value:.2f}"
    kind = "soft" if value is None else "high" if value >= 0.5 else "low"
    made = state["completions"][:N_COMPLETIONS]
    texts = joined(
        markup('<li class="{}"><pre>{}</pre></li>', "high" if one["right"] else "low", one["text"] or "(empty)") for one in made
    )
    adds = state["adds"].strip() or ("the question" if state["parent"] is None else "(white space)")
    return markup(
        '<details open><summary><span class="value {}">{}</span>{} <span class="soft">{} of {} right, selected {} times{}'
        '</span></summary><details><summary class="soft">completions</summary><ul>{}</ul></details>{}</details>',
        kind,
        shown,
        adds,
        state["n_right"],
        state["n_completions"],
        state["visits"],
        _quality(state.get("quality")),
        texts,
        below,
    )
