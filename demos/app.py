"""`python demos/app.py`: try a model, grade a text, look at runs, play a card game, in a page on this machine.

python demos/app.py --run_root runs --port 7860
python demos/app.py --task examples/own_task.py --data examples/own_task.jsonl
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

# As a script, Python puts this folder first on the path; `demos` and `vlrl` are found from the one above.
if sys.path and Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import gradio as gr

from demos import page, tabs
from demos.answering import Models
from demos.page_tasks import PageTasks, load_page_tasks
from demos.runs import Runs
from vlrl.tasks import KNOWN


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python demos/app.py", description=(__doc__ or "").splitlines()[0], allow_abbrev=False
    )
    parser.add_argument("--run_root", type=Path, default=Path("runs"), help="folder of runs; nothing outside it is shown")
    parser.add_argument("--model_name_or_path", default="tiny", help="the model that is chosen first")
    parser.add_argument("--task", action="append", default=[], metavar="MY_TASK.PY", help="a task of yours; may be repeated")
    parser.add_argument(
        "--data", action="append", default=[], type=Path, metavar="SAMPLES.JSONL",
        help="samples to show as examples of their tasks; may be repeated",
    )  # fmt: skip
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--host", default="127.0.0.1", help="where it listens; 0.0.0.0 lets other machines in")
    parser.add_argument("--share", action="store_true", help="a public address through Gradio's servers")
    return parser.parse_args(argv)


def build(run_root: Path, model: str, tasks: PageTasks) -> gr.Blocks:
    """The page. Its model is loaded beside, so that the first question need not wait for it."""
    models, shelf = Models({**KNOWN, **tasks.tasks}), Runs(run_root)
    threading.Thread(target=models.warm, args=(model,), daemon=True).start()
    blocks = gr.Blocks(title="vlrl", analytics_enabled=False)
    with blocks:
        gr.HTML(page.heading())
        with gr.Tab("Try", id="try"):
            tabs.try_tab(models, shelf, tasks, model)
        with gr.Tab("Grade", id="grade"):
            tabs.grade_tab(tasks)
        with gr.Tab("Runs", id="runs"):
            tabs.runs_tab(shelf)
        with gr.Tab("Play", id="play"):
            tabs.play_tab(models, shelf)
    blocks.queue(default_concurrency_limit=8, max_size=100)
    return blocks


def launch(args: argparse.Namespace, tasks: PageTasks, block: bool = True) -> gr.Blocks:
    """Serve the page; returns at once with `block=False`."""
    blocks = build(args.run_root, args.model_name_or_path, tasks)
    blocks.launch(
        server_name=args.host,
        server_port=args.port,
        share=args.share,
        prevent_thread_lock=not block,
        max_file_size="20mb",
        theme=page.theme(),
        css=page.CSS,
        footer_links=[],
        ssr_mode=False,
        quiet=not block,
    )
    return blocks


if __name__ == "__main__":
    flags = arguments()
    try:
        page_tasks = load_page_tasks(flags.task, flags.data)
    except ValueError as wrong:
        print(f"error: {wrong}", file=sys.stderr)
        sys.exit(2)
    launch(flags, page_tasks)
