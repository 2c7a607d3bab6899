"""A corrector behind a local endpoint with prepared replies, and steps of a game to ask it about."""

import contextlib
import threading
import time

import numpy as np
from chat_server import Server

from vlrl.envs.cards import GAMES, write_reply
from vlrl.gtr import RemoteCorrector, RemoteOptions, StepRequest

POINTS24 = GAMES["points24"]
KEY = "key-for-tests"
POOR = {"cards": [4, 6, 1, 2], "formula": "4 *", "thoughts": "next is +"}
GOOD = {"cards": ["4", "6", "A", "A"], "formula": "4 *", "thoughts": "4 * 6 * 1 * 1 makes 24, next is 6"}
YES = {"answer1": "a", "evaluation": "YES", "possible_solution": "YES", "target_formula": "4*6*1*1", "correction": None}
NO = {**YES, "evaluation": " no", "correction": GOOD}


@contextlib.contextmanager
def serving():
    """Gives `start(*replies, **options) -> corrector, server, reported lines`; what it started ends with the block."""
    started = []

    def start(*replies, **options):
        server = Server(replies)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        started.append(server)
        corrector, lines = made(f"http://127.0.0.1:{server.server_address[1]}/v1", **options)
        return corrector, server, lines

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


def made(url, clock=time.monotonic, **options):
    lines = []
    chosen = RemoteOptions("m", url, **{"timeout_s": 5.0, "backoff_s": (0.001, 0.01), **options})
    return RemoteCorrector(chosen, report=lines.append, clock=clock), lines


def step(fields=POOR, action="+", name="points24", state=None, image=None, **request):
    played, rng = GAMES[name], np.random.default_rng(0)
    if state is None:
        state = played.deal(rng, {"numbers": [4, 6, 1, 1]})
        for token in "4 *".split():  # noqa: SIM905
            state = played.step(state, token, rng).state
    return StepRequest(played, state, write_reply(fields, action), image=image, **request)
