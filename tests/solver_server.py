"""A solver that is no model behind an OpenAI-compatible endpoint, to sample from as from any server.

It solves the drawn boards of `data_prep/step_boards.py`, whose images it knows by their bytes, with the errors of
`vlrl/data/synthetic/steps.py`: a colour is taken for a similar one in 45 % of steps, the sum is off by one in 20 %. A begun
message is continued (`continue_final_message`), and a request with the same `seed` has the same reply.

    python tests/solver_server.py --port 8300 --split label --seed 0 --n 200
    vlrl bench sample --task qa --data label.jsonl --base_url http://127.0.0.1:8300/v1 --model_name_or_path solver \\
      --coords px --write step_values --output_path labels
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import re
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any

import numpy as np

from vlrl.data.images import open_image
from vlrl.data.synthetic.steps import COLOUR_ERROR_RATE, POINTS, SIMILAR_COLOURS, SUM_ERROR_RATE, step_question

STATED = re.compile(r"One shape is (\w+), (\d+) point")


class Boards(ThreadingHTTPServer):
    """The colours of boards by the bytes of their images."""

    def __init__(self, port: int, split: str, seed: int, n: int) -> None:
        super().__init__(("127.0.0.1", port), Solver)
        self.colours: dict[bytes, tuple[str, ...]] = {}
        for i in range(n):
            question, buffer = step_question(seed, split, i), BytesIO()
            open_image(question.image).save(buffer, format="PNG")
            self.colours[hashlib.sha256(buffer.getvalue()).digest()] = question.colours


class Solver(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        assert isinstance(server, Boards)
        *_, last = body["messages"]
        goes_on = last["role"] == "assistant" and body.get("continue_final_message", False)
        begun = last["content"] if goes_on else ""
        user = next(one for one in body["messages"] if one["role"] == "user")
        url = next(part["image_url"]["url"] for part in user["content"] if part["type"] == "image_url")
        colours = server.colours[hashlib.sha256(base64.b64decode(url.partition(",")[2])).digest()]
        text = solved(colours, begun, np.random.default_rng(int(body.get("seed", 0))))
        usage = {"prompt_tokens": 100 + len(begun.split()) - goes_on, "completion_tokens": max(1, len(text.split()))}
        reply = {"choices": [{"message": {"content": text}, "finish_reason": "stop"}], "usage": usage}
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(reply).encode())

    def log_message(self, *_words: Any) -> None:
        """Requests are not logged."""


def solved(colours: Sequence[str], begun: str, rng: np.random.Generator) -> str:
    """The rest of a solution that begins as `begun` does."""
    stated = [int(points) for _, points in STATED.findall(begun)]
    lines = []
    for place in range(len(stated), len(colours)):
        colour = colours[place]
        colour = SIMILAR_COLOURS[colour] if rng.random() < COLOUR_ERROR_RATE else colour
        stated.append(POINTS[colour])
        lines.append(f"Step {place + 1}: One shape is {colour}, {POINTS[colour]} point{'s' if POINTS[colour] > 1 else ''}.")
    total = sum(stated)
    if rng.random() < SUM_ERROR_RATE:
        total += 1 if rng.random() < 0.5 else -1
    end = f"Step {len(colours) + 1}: {' + '.join(map(str, stated))} = {total}. The answer is {total}."
    lines.append(f"{end}</think><answer>{total}</answer>")
    return ("" if begun else "<think>") + "\n".join(lines)


def main() -> None:
    """Serve until stopped."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--port", type=int, default=8300)
    parser.add_argument("--split", default="label", help="split of the boards")
    parser.add_argument("--seed", type=int, default=0, help="seed of the boards")
    parser.add_argument("--n", type=int, default=200, help="boards that are known")
    args = parser.parse_args()
    server = Boards(args.port, args.split, args.seed, args.n)
    print(f"http://127.0.0.1:{server.server_address[1]}/v1", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
