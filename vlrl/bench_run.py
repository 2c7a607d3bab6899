"""`python -m vlrl.bench run | score | diff`: a model's answers to a task, their numbers, and two results side by side."""

from __future__ import annotations

import argparse
import base64
import html
import io
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlrl.schema import Prediction, Sample, SampleError, Task
from vlrl.tasks import load_task

if TYPE_CHECKING:
    from vlrl.evaluation import Asked, Items, Scored

COORDS = ("px", "resized_px", "norm1000", "norm1")
N_SYNTHETIC = 400
N_SHOWN = 24
"""So many right and as many wrong answers are shown in `report.html`."""
STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; }
table { border-collapse: collapse; }
td, th { padding: .2rem .8rem; text-align: right; border-bottom: 1px solid #8884; }
td:first-child, th:first-child { text-align: left; }
.cards { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(19rem, 1fr)); }
.card { border: 1px solid #8886; border-radius: .5rem; padding: .6rem; }
.card img { width: 100%; border-radius: .3rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: 12px; margin: .3rem 0; }
.no { border-color: #c33; }
.yes { border-color: #393; }
"""


def add_commands(commands: Any) -> None:
    """The three sub-commands."""
    ran = commands.add_parser("run", help="ask a model, then score its answers")
    ran.add_argument("--model_name_or_path", required=True, help="tiny, a run's final/ folder, or a hub id")
    ran.add_argument("--revision")
    ran.add_argument("--trust_remote_code", action="store_true")
    ran.add_argument("--dtype", help="of the weights (default: the checkpoint's)")
    ran.add_argument("--attn_implementation")
    ran.add_argument("--batch_size", type=int, default=16)
    ran.add_argument("--max_new_tokens", type=int, default=512)
    ran.add_argument("--min_pixels", type=int)
    ran.add_argument("--max_pixels", type=int)
    ran.add_argument("--device", choices=("auto", "cpu"), default="auto", help="auto: a GPU where there is one")
    scored = commands.add_parser("score", help="score logged answers; no model")
    scored.add_argument("--predictions", required=True, type=Path, help="JSONL of {id, completion}")
    for parser, function in ((ran, run), (scored, score)):
        parser.add_argument("--task", required=True, help="a name, several with commas, or path/to/my_task.py")
        parser.add_argument("--data", help="JSONL of samples (default: held-out synthetic ones)")
        parser.add_argument("--image_root")
        parser.add_argument("--limit", type=int)
        parser.add_argument("--seed", type=int, default=0, help="of the synthetic samples")
        parser.add_argument("--answer_format", choices=("think_answer", "answer_think", "answer", "none"))
        parser.add_argument("--coords", choices=COORDS, help="dialect of boxes (default: the model type's)")
        parser.add_argument("--output_path", required=True, type=Path, help="folder of predictions, result.json, report.html")
        parser.set_defaults(run=function)
    compared = commands.add_parser("diff", help="two result folders on the same samples, paired")
    compared.add_argument("a", type=Path)
    compared.add_argument("b", type=Path)
    compared.add_argument("--n", type=int, default=5, help="changed answers to show of each kind")
    compared.set_defaults(run=diff)


def tasks_of(names: str) -> dict[str, Task]:
    return {task.name: task for task in map(load_task, names.split(","))}


def asked_of(args: argparse.Namespace, **more: Any) -> Asked:
    from vlrl import evaluation

    names = ("task", "data", "image_root", "limit", "seed", "answer_format", "coords")
    digest = None if args.data is None else evaluation.sha256(Path(args.data))
    return evaluation.Asked(**{name: getattr(args, name) for name in names}, data_sha256=digest, **more)


def run(args: argparse.Namespace) -> int:
    """Ask what has not been asked yet, log every answer as it comes, then score."""
    from accelerate import PartialState

    from vlrl import evaluation

    started, tasks = time.monotonic(), tasks_of(args.task)
    sizes = {name: getattr(args, name) for name in ("min_pixels", "max_pixels", "max_new_tokens")}
    asked = asked_of(args, model=args.model_name_or_path, **sizes)
    state = PartialState(cpu=args.device == "cpu")
    if state.is_main_process:
        evaluation.open_folder(args.output_path, asked)
        evaluation.merge(args.output_path)
    state.wait_for_everyone()
    items = evaluation.read_items(asked, tasks, N_SYNTHETIC)
    ready = answer(args, tasks, items, state)
    if state.is_main_process:
        predictions = evaluation.merge(args.output_path, ready.samples)
        conclude(args.output_path, asked, tasks, ready, predictions, started)
    state.wait_for_everyone()
    state.destroy_process_group()
    return 0


def answer(args: argparse.Namespace, tasks: dict[str, Task], items: Items, state: Any) -> Items:
    """Complete the log of answers; returns the items as they were asked, those without a readable picture apart."""
    from vlrl import evaluation
    from vlrl.generate import generate
    from vlrl.model import load_model
    from vlrl.prompts import ImageError, situate

    loaded = load_model(
        args.model_name_or_path, dtype=args.dtype, attn_implementation=args.attn_implementation, revision=args.revision,
        trust_remote_code=args.trust_remote_code, coords=args.coords, min_pixels=args.min_pixels, max_pixels=args.max_pixels,
    )  # fmt: skip
    loaded.model.to(state.device)
    ready, missing = [], []
    for sample in items.samples:
        try:
            one = situate(sample, loaded, answer_format=args.answer_format)
        except ImageError as error:
            missing.append(sample.id)
            print(f"missing: {sample.id}: {error}", file=sys.stderr)
            continue
        problem = tasks[one.task].check(one)
        if problem:
            raise SampleError(f"{args.data or 'synthetic'} (id {one.id!r}): {problem}")
        ready.append(one)
    done = evaluation.logged(args.output_path)
    open_ones = [sample for sample in ready if sample.id not in done]
    # Long prompts first: batches hold rows of like length, and a lack of memory shows at once.
    open_ones.sort(key=lambda one: (-len(one.images), -len(tasks[one.task].prompt(one))))
    by_id = {sample.id: sample for sample in ready}
    if state.is_main_process:
        print(f"model     {loaded.name}; boxes {loaded.coords} (from {loaded.coords_why}); attention {loaded.attention}")
        print(
            f"samples   {len(ready)}: {len(ready) - len(open_ones)} answered before, {len(missing)} without a readable picture"
        )
    part = args.output_path / f"predictions.part-{state.process_index}.jsonl"
    state.wait_for_everyone()
    if open_ones:
        generate(
            loaded, tasks, open_ones, max_new_tokens=args.max_new_tokens, batch_size=args.batch_size, label="answering",
            each=lambda predictions: evaluation.append(part, predictions, by_id),
        )  # fmt: skip
    state.wait_for_everyone()
    return evaluation.Items(ready, missing)


def score(args: argparse.Namespace) -> int:
    """Score a file of answers into a folder."""
    from vlrl import evaluation

    started, tasks = time.monotonic(), tasks_of(args.task)
    asked = asked_of(args, model=f"predictions of {args.predictions}")
    items = evaluation.read_items(asked, tasks, N_SYNTHETIC)
    made = {"coords": args.coords, "answer_format": args.answer_format}
    set_by_hand = {name: value for name, value in made.items() if value is not None}
    predictions = [
        Prediction(p.id, p.completion, p.n_tokens, p.truncated, {**p.meta, **set_by_hand})
        for p in evaluation.read_file(args.predictions)
    ]
    boxes = [sample for sample in items.samples if sample.task in ("detection", "grounding")]
    if boxes and not any("coords" in p.meta for p in predictions) and "coords" not in boxes[0].meta:
        print("boxes     read as pixels of the original image; say otherwise with --coords", file=sys.stderr)
    conclude(args.output_path, asked, tasks, items, predictions, started)
    return 0


def conclude(
    folder: Path, asked: Asked, tasks: dict[str, Task], items: Items, predictions: Sequence[Prediction], started: float
) -> None:
    """Score, write, print; the last line is the result's path."""
    from vlrl import evaluation
    from vlrl.report import table

    scored = evaluation.score(tasks, items, predictions)
    evaluation.write_result(folder, asked, tasks, items, scored, started, shlex.join(sys.argv[1:]))
    title = f"{asked.task}: {asked.model}"
    (folder / "report.html").write_text(page(title, scored, items), encoding="utf-8")
    print(table({"value": scored.evaluation}))
    if scored.n_failed or items.missing:
        print(f"left out  {scored.n_failed} without an answer, {len(items.missing)} without a readable picture")
    print(folder / "report.html")
    print(folder / "result.json")


def diff(args: argparse.Namespace) -> int:
    """Print how two results differ."""
    from vlrl import evaluation

    found = evaluation.difference(args.a, args.b)
    mean = found.mean
    interval = "" if mean.ci95 is None else f" [{mean.ci95[0]:+.4f}, {mean.ci95[1]:+.4f}]"
    p_value = "not defined" if found.p_value is None else f"{found.p_value:.4f}"
    print(f"b - a     {mean.value:+.4f}{interval}, n {mean.n}")
    print("          (mean of what each sample's first own reward pays; 95 % paired bootstrap, pictures as units)")
    print(f"p         {p_value} (paired permutation, pictures as units)")
    print(f"changed   {len(found.better)} better, {len(found.worse)} worse, {found.n_equal} equal")
    if found.only_a or found.only_b:
        print(f"unpaired  {found.only_a} only in a, {found.only_b} only in b")
    for name, rows in (("better", found.better), ("worse", found.worse)):
        for row in rows[: args.n]:
            print(f"{name:9} {row['id']}: {row['a']:.3f} -> {row['b']:.3f}")
            print(f"    a: {row['completion_a']!r}\n    b: {row['completion_b']!r}")
    return 0


# -- the page -------------------------------------------------------------------------------------------------------------


def page(title: str, scored: Scored, items: Items) -> str:
    """One self-contained page: the numbers, and right and wrong answers with their pictures and boxes."""
    found = scored.evaluation
    rows = []
    for name, metric in found.metrics.items():
        cells = ["-" if number is None else f"{number:.4f}" for number in (metric.value, metric.stderr)]
        cells.append("-" if metric.ci95 is None else f"[{metric.ci95[0]:.4f}, {metric.ci95[1]:.4f}]")
        cells = [html.escape(name), *cells, str(metric.n)]
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    counted = f"{found.n} scored, {found.n_unparsed} unparsed, {found.n_truncated} truncated"
    counted += f", {scored.n_failed} without an answer, {len(items.missing)} without a readable picture"
    order = sorted(range(len(scored.samples)), key=lambda i: scored.values.get(scored.samples[i].id, 0.0))
    wrong = [i for i in order if scored.values.get(scored.samples[i].id, 0.0) < 0.5][:N_SHOWN]
    right = [i for i in reversed(order) if scored.values.get(scored.samples[i].id, 0.0) >= 0.5][:N_SHOWN]
    cards = [
        f"<h2>{head}</h2><div class='cards'>{''.join(_card(scored, i) for i in chosen)}</div>"
        for head, chosen in (("Worst answers", wrong), ("Best answers", right))
        if chosen
    ]
    head = "<tr><th>metric</th><th>value</th><th>stderr</th><th>95 % interval</th><th>n</th></tr>"
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
        f"<title>{html.escape(title)}</title><style>{STYLE}</style><h1>{html.escape(title)}</h1><p>{counted}</p>"
        f"<table>{head}{''.join(rows)}</table>{''.join(cards)}</html>\n"
    )


def _card(scored: Scored, index: int) -> str:
    sample, prediction = scored.samples[index], scored.predictions[index]
    value = scored.values.get(sample.id)
    kind = "" if value is None else "yes" if value >= 0.5 else "no"
    picture = _picture(sample, prediction)
    shown = f"<img alt='{html.escape(sample.question)}' src='data:image/jpeg;base64,{picture}'>" if picture else ""
    told = "does not apply" if value is None else f"{value:.3f}"
    return (
        f"<div class='card {kind}'>{shown}<b>{told}</b> {html.escape(sample.id)}<pre>{html.escape(sample.question)}</pre>"
        f"<pre>{html.escape(prediction.completion)}</pre><pre>true: {html.escape(str(sample.answer))}</pre></div>"
    )


def _picture(sample: Sample, prediction: Prediction) -> str | None:
    """The sample with true and given boxes as a JPEG in base64, None without pictures or where they are gone."""
    from vlrl.prompts import ImageError
    from vlrl.report import draw_answer

    try:
        image = draw_answer(sample, prediction)
    except ImageError:
        return None
    if image is None:
        return None
    data = io.BytesIO()
    image.save(data, "JPEG", quality=85)
    return base64.b64encode(data.getvalue()).decode("ascii")
