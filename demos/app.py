"""`python demos/app.py`: try a model, grade a text, look at runs, play a card game, in a page on this machine.

python demos/app.py --run_root runs --port 7860
python demos/app.py --task examples/own_task.py --data examples/own_task.jsonl
VLRL_DEMO_AUTH=user:password python demos/app.py --host 0.0.0.0
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

# As a script, Python puts this folder first on the path; `demos` and `vlrl` are found from the one above.
if sys.path and Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Gradio sums up all its events after each of them.
os.environ.setdefault("GRADIO_ANALYTICS_CACHE_FREQUENCY", "1000")
os.environ.setdefault("GRADIO_ANALYTICS_MAX_EVENTS", "2000")

import gradio as gr
from starlette.middleware import Middleware

from demos import figures, page, runs_tab
from demos.answering import Models
from demos.components import Html
from demos.doors import MAX_UPLOAD_BYTES, Doors, Storage
from demos.grade_tab import grade_tab
from demos.model_list import ModelList
from demos.page_tasks import PageTasks, load_page_tasks
from demos.play_tab import play_tab
from demos.runs import Runs
from demos.runs_style import RUNS_CSS
from demos.try_tab import try_tab
from vlrl.models.names import TINY_NAMES, model_name_problem
from vlrl.tasks import KNOWN
from vlrl.training.prm.options import TASK as PRM

AUTH_VARIABLE = "VLRL_DEMO_AUTH"
WARM_S = 20.0
"""Seconds that the page waits for a bundled model before it is served."""
SESSIONS = 500
"""Visitors whose game or upload is kept; of more, those who have done nothing for longest start anew."""


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python demos/app.py", description=(__doc__ or "").splitlines()[0], allow_abbrev=False
    )
    parser.add_argument("--run_root", type=Path, default=Path("runs"), help="folder of runs; nothing outside it is shown")
    parser.add_argument("--model_name_or_path", default="tiny", help="the model that is chosen first")
    parser.add_argument(
        "--allow_hub", action="store_true",
        help="visitors may type any id of the Hugging Face hub; without it they choose from the embedded models, those of the"
        " runs, and --model_name_or_path",
    )  # fmt: skip
    parser.add_argument(
        "--allow_servers", action="store_true",
        help="visitors from other machines, too, may have this one ask an OpenAI-compatible server that they name",
    )  # fmt: skip
    parser.add_argument("--task", action="append", default=[], metavar="MY_TASK.PY", help="a task of yours; may be repeated")
    parser.add_argument(
        "--data", action="append", default=[], type=Path, metavar="SAMPLES.JSONL",
        help="samples to show, images included, as examples of their tasks; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--read_only", action="store_true",
        help="no run is started, stopped or resumed from the page; without it a browser on this machine may, and no other",
    )  # fmt: skip
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument(
        "--host", default="127.0.0.1", help="where it listens; 0.0.0.0 lets other machines in, and then asks for --auth"
    )
    parser.add_argument("--share", action="store_true", help="a public address through Gradio's servers; asks for --auth")
    parser.add_argument(
        "--auth", metavar="USER:PASSWORD",
        help=f"what visitors log in with; the environment variable {AUTH_VARIABLE} keeps it out of the list of processes",
    )  # fmt: skip
    parser.add_argument("--no_auth", action="store_true", help="let in whoever reaches --host or --share, without a password")
    return parser.parse_args(argv)


def login(args: argparse.Namespace, environment: Mapping[str, str] = os.environ) -> tuple[str, str] | None:
    """User and password, or None where the page needs none. Raises ValueError where it does, or they cannot be used."""
    given, source = (args.auth, "--auth") if args.auth is not None else (environment.get(AUTH_VARIABLE) or None, AUTH_VARIABLE)
    if given is not None and not args.no_auth:
        user, _, password = given.partition(":")
        if not user.strip() or not password:
            raise ValueError(f"{source}: give a user and a password, as in user:password")
        return user.strip(), password
    if args.no_auth and args.auth is not None:
        raise ValueError("--auth and --no_auth exclude each other; leave one out")
    if not args.no_auth and (args.share or not _is_this_machine(args.host)):
        where = "--share" if args.share else f"--host {args.host}"
        raise ValueError(
            f"{where} lets other people in, who would see the runs and use this machine: set {AUTH_VARIABLE}=user:password"
            " (or --auth user:password), or say --no_auth"
        )
    return None


def may_name_servers(args: argparse.Namespace) -> bool:
    """Whether who uses the page may have this machine ask a server: whoever sits at it, others where the operator allows it."""
    return bool(args.allow_servers) or (not args.share and _is_this_machine(args.host))


def _is_this_machine(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def build(
    run_root: Path,
    model: str,
    tasks: PageTasks,
    allow_hub: bool = False,
    trainable: Sequence[str] = (),
    *,
    may_control: bool = False,
    servers: bool = False,
) -> gr.Blocks:
    """The page. Its model is loaded beside, so that the first question need not wait for it; a bundled one is waited for.
    `may_control`: whether a browser on this machine may start and stop runs, of the tasks `trainable`; `servers`: whether
    visitors may have this machine ask a server that they name."""
    shelf = Runs(run_root)
    models = Models(ModelList(shelf, model, allow_hub), {**KNOWN, **tasks.tasks})
    warming = threading.Thread(target=models.warm, args=(model,), daemon=True)
    warming.start()
    blocks = gr.Blocks(title="vlrl", analytics_enabled=False)
    with blocks:
        Html(page.heading())
        with gr.Tabs() as bar:
            with gr.Tab("Try", id="try"):
                try_tab(models, tasks, servers)
            with gr.Tab("Grade", id="grade"):
                grade_tab(tasks, bar)
            with gr.Tab("Runs", id="runs"):
                runs_tab.runs_tab(shelf, trainable, may_control=may_control)
            with gr.Tab("Play", id="play"):
                play_tab(models)
    # Functions are called through the queue alone, which bounds how many run at a time.
    blocks.queue(default_concurrency_limit=8, max_size=200, api_open=False)
    if model in TINY_NAMES:
        warming.join(WARM_S)
    return blocks


def own_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder for what visitors upload and are shown, of this page alone and removed with it: gradio's own is shared by all
    that it serves on a machine, and every file in it is served."""
    place = os.environ.get("GRADIO_TEMP_DIR")
    if place:
        Path(place).mkdir(parents=True, exist_ok=True)
    holder = tempfile.TemporaryDirectory(prefix="vlrl-page-", dir=place or None)
    os.environ["GRADIO_TEMP_DIR"] = os.environ["GRADIO_EXAMPLES_CACHE"] = str(Path(holder.name).resolve())
    return holder


def launch(args: argparse.Namespace, tasks: PageTasks, auth: tuple[str, str] | None = None, block: bool = True) -> gr.Blocks:
    """Serve the page; returns at once with `block=False`."""
    storage = Storage(Path(os.environ["GRADIO_TEMP_DIR"]))
    storage.sweep_for_ever()
    # Behind Gradio's servers everybody seems to be on this machine.
    trainable = [*args.task, *KNOWN, PRM]
    may_control = not (args.read_only or args.share)
    blocks = build(
        args.run_root, args.model_name_or_path, tasks, args.allow_hub, trainable, may_control=may_control,
        servers=may_name_servers(args),
    )  # fmt: skip
    blocks.launch(
        server_name=args.host,
        server_port=args.port,
        share=args.share,
        auth=auth,
        prevent_thread_lock=not block,
        max_file_size=MAX_UPLOAD_BYTES,
        state_session_capacity=SESSIONS,
        theme=page.theme(),
        css=page.CSS + figures.CSS + RUNS_CSS,
        footer_links=[],
        ssr_mode=False,
        enable_monitoring=False,
        run_history=False,
        mcp_server=False,
        pwa=False,
        app_kwargs={"middleware": [Middleware(Doors, storage=storage)]},
        quiet=not block,
    )
    return blocks


def main(argv: Sequence[str] | None = None) -> int:
    """Serve the page until it is stopped. Exit code 2: it cannot start, and one line says why."""
    args = arguments(argv)
    try:
        auth = login(args)
        if problem := model_name_problem(args.model_name_or_path):
            raise ValueError(f"--model_name_or_path {problem}")
        page_tasks = load_page_tasks(args.task, args.data)
    except ValueError as wrong:
        print(f"error: {wrong}", file=sys.stderr)
        return 2
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with own_folder():
            launch(args, page_tasks, auth)
    # A port in use, an address of another machine, a full disk; a machine so busy that gradio does not reach its own page.
    except (OSError, ValueError) as wrong:
        why = " ".join(str(wrong).split())
        print(f"error: the page cannot be served on {args.host} port {args.port}; try another --port: {why}", file=sys.stderr)
        return 2
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


if __name__ == "__main__":
    sys.exit(main())
