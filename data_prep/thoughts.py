"""Thoughts for the supervised stage, written by a larger model that knows the right answer → `meta.thinking` of samples.

    OPENAI_API_KEY=... python data_prep/thoughts.py --data plans.jsonl --model gpt-4o --max_calls 2000 --out plans_thought.jsonl
    torchrun vlrl/train.py --task planning --stage sft --data plans_thought.jsonl ...

AlphaDrive's first stage (arXiv 2503.07608): a large vision-language model sees the images, the question and the true decision,
and explains it in one or two sentences; a small model then learns to think so before it answers. Rows that have a thought keep
it. Requests go out as those of the corrector do: side by side, tried again, with a pause when too many fail, and with a budget
(`--max_calls`, or `--max_cost` with prices). Replies are kept beside `--out` (`.replies.jsonl`, with `.spent.json`), so the
same command goes on where it ended and pays nothing twice. Rows without a thought are left out and counted; the exit code is
then 1.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from io import FileIO
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_prep.writing import Report, add_output_options, check_output_options, draw, finish, program
from vlrl.answers.whole_text import whole_text
from vlrl.data.files import append_whole, read_json_lines
from vlrl.data.images import ImageError
from vlrl.data.masking import address_problem
from vlrl.data.sample_files import read_samples
from vlrl.rewards.budget import Spending, check_prices
from vlrl.rewards.chat_client import EndpointError, base_url
from vlrl.rewards.endpoint import Endpoint, Limits, Unanswered
from vlrl.rewards.image_uris import image_uris
from vlrl.schema import Sample, SampleError
from vlrl.tasks.evaluate import as_text
from vlrl.tasks.prompt_template import question_of

MAX_THOUGHT_CHARS = 800
AT_ONCE = 64
"""Questions that are asked together."""
INSTRUCTION = (
    "Above is what a model is asked about the image, and the right answer. In one or two sentences, say what in the image and"
    " in the question leads to this answer. Write as someone who works it out, not as someone who was given it. Write the"
    " sentences only."
)
_TAG = re.compile(r"</?(?:think|answer)>", re.IGNORECASE)


def main(argv: Sequence[str] | None = None) -> int:
    """Ask, write. Returns the exit code: 1 where rows were left without a thought; the last line printed is the
    file written."""
    args = _arguments(argv)
    args.overwrite = args.overwrite or replies_at(args.out).is_file()  # the file of a run that did not come to its end
    target, report = check_output_options(args), Report.of(args)
    samples = draw(read_samples(args.data, args.image_root), args.limit, args.seed)
    known = read_replies(replies_at(args.out))
    asked = [sample for sample in samples if not sample.facts.get("thinking") and sample.id not in known]
    spending = Spending(args.max_calls, args.max_cost, (args.input_cost, args.output_cost), args.out.with_suffix(".spent.json"))
    limits = Limits(timeout_s=args.timeout_s, n_parallel=args.n_parallel)
    endpoint = Endpoint(f"model {args.model}", base_url(args.base_url or ""), "base_url", limits, spending, report=_say)
    print(f"asking     {len(asked)} of {len(samples)} rows; {len(known)} replies found")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    failed = Asker(endpoint, args).ask(asked, known)
    spending.keep()
    thoughts = {sample.id: sample.facts.get("thinking") or known.get(sample.id) for sample in samples}
    thought = [replace(one, meta={**one.meta, "thinking": thoughts[one.id]}) for one in samples if thoughts[one.id]]
    n_without = len(samples) - len(thought)
    counts = spending.counts
    lines = [
        f"calls      {counts.n_calls}" + (f", cost {counts.cost:.4g}" if args.input_cost or args.output_cost else ""),
        f"failed     {len(failed)} rows" + (f", the first {next(iter(failed.items()))}" if failed else ""),
        f"left out   {n_without} rows without a thought" + ("; the same command goes on" if n_without else ""),
    ]
    code = finish(thought, target, report, lines, f"{n_without} rows without a thought")
    return code or int(n_without > 0)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="samples -> samples with thoughts by a larger model (JSONL)")
    parser.add_argument("--data", type=Path, required=True, help="samples of any task")
    parser.add_argument("--image_root", type=Path, help="folder that image paths are relative to")
    parser.add_argument("--model", required=True, help="name of the model at the endpoint")
    parser.add_argument(
        "--base_url", help="OpenAI-compatible server (default: OPENAI_API_BASE, else OpenAI's); key: OPENAI_API_KEY"
    )
    parser.add_argument("--max_calls", type=int, help="no more requests than this, over all runs of the command")
    parser.add_argument("--max_cost", type=float, help="no more requests once this is spent; needs the prices")
    parser.add_argument("--input_cost", type=float, default=0.0, help="price of a million tokens read")
    parser.add_argument("--output_cost", type=float, default=0.0, help="price of a million tokens written")
    parser.add_argument("--n_parallel", type=int, default=8, help="requests at a time")
    parser.add_argument("--timeout_s", type=float, default=60.0, help="seconds a request may take")
    parser.add_argument("--temperature", type=float, default=0.4)
    parser.add_argument("--max_tokens", type=int, default=200, help="of a reply")
    add_output_options(parser, dataset=False)
    args = parser.parse_args(argv)
    try:
        check_prices(args.max_calls, args.max_cost, args.input_cost, args.output_cost)
        Limits(timeout_s=args.timeout_s, n_parallel=args.n_parallel)
        if problem := address_problem("base_url", args.base_url):
            raise ValueError(f"--base_url: {problem}")
    except ValueError as error:
        parser.error(str(error))
    return args


def replies_at(out: Path) -> Path:
    """Where replies are kept, beside the file that is written."""
    return out.with_suffix(".replies.jsonl")


def read_replies(path: Path) -> dict[str, str]:
    """Sample id → thought, of replies that were kept. Raises SampleError for a line that is none."""
    found = {}
    for where, row in read_json_lines(path) if path.is_file() else ():
        if not isinstance(row.get("id"), str) or not isinstance(row.get("thinking"), str):
            raise SampleError(f'{where}: a reply is {{"id", "thinking"}}; delete {path} to ask again')
        found[row["id"]] = row["thinking"]
    return found


class Asker:
    """Asks for thoughts and keeps each reply as it comes."""

    def __init__(self, endpoint: Endpoint, args: argparse.Namespace) -> None:
        self.endpoint, self.args = endpoint, args
        self._lock = threading.Lock()

    def ask(self, samples: Sequence[Sample], known: dict[str, str]) -> dict[str, str]:
        """Adds the thoughts of `samples` to `known`; returns sample id → why there is none."""
        failed: dict[str, str] = {}
        with replies_at(self.args.out).open("ab", buffering=0) as file:

            def one(sample: Sample) -> None:
                try:
                    thought, _ = self.endpoint.ask(lambda: self._thought(sample))
                except (Unanswered, ImageError) as error:
                    failed[sample.id] = str(error)
                    return
                self._keep(file, sample, thought)
                known[sample.id] = thought

            for start in range(0, len(samples), AT_ONCE):
                some = samples[start : start + AT_ONCE]
                if self.endpoint.is_spent:
                    failed |= {sample.id: "the budget was reached" for sample in some}
                    continue
                self.endpoint.many(one, some)
        return failed

    def _keep(self, file: FileIO, sample: Sample, thought: str) -> None:
        with self._lock:
            append_whole(file, (json.dumps({"id": sample.id, "thinking": thought}) + "\n").encode())

    def _thought(self, sample: Sample) -> str:
        content: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": uri}} for uri in image_uris(sample)]
        content.append({"type": "text", "text": question_text(sample)})
        body = {"model": self.args.model, "temperature": self.args.temperature, "max_tokens": self.args.max_tokens}
        reply = self.endpoint.call({**body, "messages": [{"role": "user", "content": content}]})
        return checked_thought(reply.text)


def question_text(sample: Sample) -> str:
    """What is asked: the question, the state that a planning row has, the right answer, and what to do."""
    state = [f"{key}: {sample.meta[key]}" for key in ("speed_mps", "navigation", "categories") if sample.meta.get(key)]
    lines = [
        f"Task: {sample.task}",
        f"Question: {question_of(sample)}",
        *state,
        f"Right answer: {as_text(sample.answer)}",
        INSTRUCTION,
    ]
    return "\n".join(lines)


def checked_thought(text: str) -> str:
    """A reply as a thought: on one line, without tags. Raises EndpointError for one that is empty or long."""
    thought = " ".join(_TAG.sub(" ", whole_text(text)).split())
    if not thought:
        raise EndpointError("an empty reply")
    if len(thought) > MAX_THOUGHT_CHARS:
        raise EndpointError(f"a reply of {len(thought)} characters, {MAX_THOUGHT_CHARS} at most")
    return thought


def _say(line: str) -> None:
    print(f"note: {line}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(program(main))
