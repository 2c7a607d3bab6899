"""What the tab "Grade" does: any text scored against a sample, with what was read and which boxes matched, and a link to it."""

from __future__ import annotations

import json
import threading
import urllib.parse
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import gradio as gr

from demos import completions, matching, page, scoring
from demos.components import MAX_TEXT
from demos.page_tasks import PageTasks
from vlrl.data.markup import Markup, markup
from vlrl.rewards import REWARDS

OWN = "the task's own"
LOCAL_REWARDS = sorted(name for name, reward in REWARDS.items() if not reward.needs & {"network", "base", "model"})
MAX_LINK = 8_000
"""Characters of a link; longer addresses are cut by some browsers, proxies and chats."""
KEYS = ("reward", "sample", "text")
MAX_VISITORS = 10_000
"""Visitors whose latest request is remembered."""


class Grading:
    """Each method returns what the page shows then."""

    def __init__(self, tasks: PageTasks) -> None:
        self.tasks = tasks
        self._latest: OrderedDict[str | None, int] = OrderedDict()
        self._lock = threading.Lock()

    def fill(self, task: str, number: float | None, reward: str) -> Any:
        """An example with a completion that is nearly right, graded."""
        chosen = self.tasks.example(task, max(0, int(number or 0)))
        written, completion = self.tasks.as_text(chosen), self.tasks.reference(scoring.nearly(chosen))
        return written, completion, *self.grade(written, completion, reward)

    def grade_latest(
        self, sample_text: str | None, text: str | None, reward: str, number: int | None, request: gr.Request
    ) -> Any:
        """What `grade` shows, unless the same visitor has asked for more since. `number` counts the requests of a page: two
        that are sent together may arrive in either order. 0: not counted."""
        visitor, own = request.session_hash, number or 0
        if self._is_latest(visitor, own):
            shown = self.grade(sample_text, text, reward)
            if self._is_latest(visitor, own):
                return shown
        return tuple(gr.skip() for _ in range(4))

    def _is_latest(self, visitor: str | None, number: int) -> bool:
        if number <= 0:
            return True
        with self._lock:
            newest = max(number, self._latest.pop(visitor, 0))
            self._latest[visitor] = newest
            if len(self._latest) > MAX_VISITORS:
                self._latest.popitem(last=False)
        return newest == number

    def grade(self, sample_text: str | None, text: str | None, reward: str) -> tuple[Any, Any, Any, Any]:
        """Image, what was read, rewards, link."""
        if not sample_text:
            return (
                "",
                page.problem("nothing to grade", "the sample is empty; choose a task or paste a row of a data file"),
                "",
                "",
            )
        text = text or ""
        try:
            chosen = self.tasks.read_sample(sample_text)
            scored = scoring.score(chosen, [text], self.tasks.tasks, None if reward == OWN else [reward])[0]
            compared = matching.compare(self.tasks[chosen.task], chosen, text)
            image = completions.figure(self.tasks[chosen.task], chosen, text)
        except ValueError as error:
            return "", page.problem("cannot be scored", error), "", ""
        pairs = matching.table(compared) if compared else markup("")
        read = completions.explained(text, chosen, scored, compared)
        return image, read, page.rewards(scored) + pairs, link_to(sample_text, text, reward)

    def restore(self, query: Mapping[str, str]) -> tuple[bool, str, str, str, tuple[Any, Any, Any, Any]]:
        """What a link asks for, as (whether it is one, sample, text, reward, what `grade` shows). Without a link, the first
        example."""
        if query.get("tab") != "grade" or not query.get("sample"):
            sample, text, *shown = self.fill(self.tasks.names[0], 0, OWN)
            return query.get("tab") == "grade", sample, text, OWN, tuple(shown)
        reward, sample, text = (query.get(key, "") for key in KEYS)
        if len(sample) + len(text) > MAX_TEXT or reward not in (OWN, *LOCAL_REWARDS):
            first = self.fill(self.tasks.names[0], 0, OWN)
            why = (
                f"its reward is {reward[:60]!r}, which this page does not have"
                if len(sample) + len(text) <= MAX_TEXT
                else "too long"
            )
            return True, first[0], first[1], OWN, (first[2], page.problem("the link cannot be opened", why), first[4], first[5])
        sample = _indented(sample)
        return True, sample, text, reward, self.grade(sample, text, reward)


def link_to(sample_text: str, text: str, reward: str) -> Markup:
    """A link that fills in and grades the same again, wherever the same page is served."""
    try:
        short = json.dumps(json.loads(sample_text), ensure_ascii=False, separators=(",", ":"))
    except (ValueError, RecursionError):
        short = sample_text
    words = {"tab": "grade", "reward": reward, "sample": short, "text": text}
    try:
        query = urllib.parse.urlencode(words)
    except UnicodeEncodeError:
        return page.note("No link: the text holds a character that no address can.")
    if len(query) > MAX_LINK:
        return page.note(f"No link: it would have {len(query):,} characters, and {MAX_LINK:,} are the most.")
    return markup("<p><a class='vl-link' href='?{}'>Link to this page as it is now</a></p>", query)


def _indented(sample: str) -> str:
    try:
        return json.dumps(json.loads(sample), indent=1, ensure_ascii=False)
    except (ValueError, RecursionError):
        return sample
