"""HTML of which a part can be clicked: a button, or a row of a table, that carries `data-pick`."""

from __future__ import annotations

from typing import Any

import gradio as gr

from demos.components import Html, OwnMeta

CLICKS = """
element.addEventListener('click', event => {
  const part = event.target.closest('[data-pick]');
  if (part && element.contains(part)) trigger('click', {pick: part.dataset.pick});
});
// Whoever uses the keyboard stays on the same button when the list is written anew.
let focused = null;
element.addEventListener('focusin', event => {
  const part = event.target.closest('button[data-pick]');
  focused = part ? part.dataset.pick : null;
});
element.addEventListener('focusout', event => { if (event.relatedTarget) focused = null; });
watch('value', () => {
  if (focused === null || element.contains(document.activeElement)) return;
  const again = [...element.querySelectorAll('button[data-pick]')].find(part => part.dataset.pick === focused);
  if (again) again.focus({preventScroll: true});
});
"""
MAX_PICK = 500
"""Characters of what was picked that are taken."""


class Clickable(Html, metaclass=OwnMeta):
    """HTML whose value is `Markup`. A click on what carries `data-pick` is its event `click` (`picked`)."""

    is_template = True

    def __init__(self, value: str | None = None, **options: Any) -> None:
        super().__init__(value, **{"js_on_load": CLICKS, **options})


def picked(event: gr.EventData) -> str:
    """What the part of a `Clickable` that was clicked carries; "" for anything else that was sent."""
    sent = event._data
    found = sent.get("pick") if isinstance(sent, dict) else None
    return found if isinstance(found, str) and len(found) <= MAX_PICK else ""
