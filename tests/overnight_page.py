"""50 visitors on the page for a minute, on all tabs: errors, answers meant for others, times."""

import asyncio
import json
import random
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import httpx
from overnight import Row
from page_client import Visitor, functions_of, page
from test_demo import write_run

from demos.games import Game
from demos.page_tasks import PageTasks

VISITORS, SECONDS = 50, 60
PAUSE_S = (2.0, 5.0)
"""Between what one visitor does and the next thing."""
MEDIAN_S = 1.0
"""Of Grade."""
TABS = {"Grade": 7, "Runs": 5, "Play": 5, "Try, an example": 2, "Try, a question": 1}
"""How often each is used."""


class Counts:
    def __init__(self):
        self.seconds, self.failed, self.positions = defaultdict(list), defaultdict(list), []

    def add(self, tab, reply, expected):
        """`expected`: whether the data are those of this visitor, and of nobody else."""
        self.seconds[tab].append(reply.seconds)
        if reply.error:
            self.failed[tab].append(reply.error)
        elif not expected(reply.data):
            self.failed[tab].append(f"mixed state: {json.dumps(reply.data)[:300]}")
        if reply.waited_s > 1:
            self.positions.append(bool(reply.ranks))


async def visit(number, rng, visitor, counts, end):
    tasks, game = PageTasks(), None
    while time.monotonic() < end:
        tab = rng.choices(list(TABS), list(TABS.values()))[0]
        if tab == "Grade":
            own = f"own-{number}-{rng.randrange(10**9)}"
            sample = json.dumps({"id": "a", "task": "qa", "question": "Which?", "answer": own})
            reply = await visitor.call("grade", sample, f"<think>t</think><answer>{own}</answer>", "exact_match")
            counts.add(tab, reply, lambda data, own=own: own in data[1] and "1 <span" in data[2])
        elif tab == "Runs":
            name = rng.choice(["first", "second"])
            counts.add(tab, await visitor.call("look", name, "–"), lambda data, name=name: name in data[0])
            rows = await visitor.call("show_rows", name, "step 1", "all")
            counts.add(tab, rows, lambda data, name=name: f"of {name}" in data[0])
        elif tab == "Play":
            if game is None or game.episode.done:
                game = Game("points24", rng.randrange(10**6))
                reply = await visitor.call("deal", "points24", game.seed)
            else:
                token = rng.choice(game.tokens)
                game.play_token(token, "")
                reply = await visitor.call("by_hand", None, token, "")
            counts.add(tab, reply, lambda data, game=game: game.status in data[3])
        else:
            task, index = rng.choice(["detection", "qa", "grounding"]), rng.randrange(100)
            example = tasks.example(task, index)
            reply = await visitor.call("show_example", task, index)
            counts.add("Try, an example", reply, lambda data, example=example: data[2] == example.question)
            if tab == "Try, a question":
                reply = await visitor.call("answer_it", task, "tiny", None, None, example.question, 1, 1.0)
                counts.add(tab, reply, lambda data: "vl-table" in data[2])
        await asyncio.sleep(rng.uniform(*PAUSE_S))


async def visit_all(address, n, seed, counts):
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(limits=limits, timeout=60) as client:
        functions = await functions_of(client, address)
        first = Visitor(client, address, functions)
        await first.call("show_example", "detection", 0)
        await first.call("answer_it", "detection", "tiny", None, None, "red square", 1, 1.0)  # the model is loaded
        end = time.monotonic() + SECONDS
        visitors = [Visitor(client, address, functions) for _ in range(n)]
        await asyncio.gather(*(visit(i, random.Random(f"{seed} {i}"), one, counts, end) for i, one in enumerate(visitors)))


def run(n, seed):
    n, counts = n or VISITORS, Counts()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_run(folder / "runs" / "first")
        write_run(folder / "runs" / "second", reward=0.3)
        with page(folder) as address:
            asyncio.run(visit_all(address, n, seed, counts))
        raised = (folder / "log.txt").read_text().count("Traceback")
    rows = []
    for tab, seconds in counts.seconds.items():
        faults = counts.failed[tab]
        notes = f"median {statistics.median(seconds):.2f} s, worst {max(seconds):.1f} s" + (f"; {faults[0]}" if faults else "")
        rows.append(Row(f"page, {n} visitors for {SECONDS} s: {tab}", len(seconds), len(faults), notes))
    median = statistics.median(counts.seconds["Grade"])
    rows.append(Row(f"page: median of Grade below {MEDIAN_S:g} s", 1, int(median >= MEDIAN_S), f"{median:.2f} s"))
    unseen = counts.positions.count(False)
    rows.append(Row("page: place in the queue shown to who waits over 1 s", len(counts.positions), unseen, ""))
    rows.append(Row("page: errors in the server's log", 1, int(raised > 0), f"{raised} tracebacks"))
    return rows
