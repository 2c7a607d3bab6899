"""A training run that ends in the benchmark (`--bench autotrust,vilbench`): the model it started from beside `final/`.

Every measurement is a command of its own (`python -m vlrl.bench run ...`), started by the first process after training, when
the others have ended: a benchmark cannot harm the run, and anybody can repeat it by hand. Results are written to
`<run>/bench/before/<name>` and `.../after/<name>`, and `bench diff` pairs them. Flags and data of all benchmarks are checked
before anything is trained. Not here: the flags (`vlrl.training.benchmark_flags`).
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlrl.metrics.composite import without_parts
from vlrl.metrics.tables import text_table
from vlrl.models.names import TINY_NAMES
from vlrl.tasks.evaluate import write_json
from vlrl.training.benchmark_flags import DIFF_PICTURE, family_of, folder_name
from vlrl.training.config import Config
from vlrl.training.model_card import write_card
from vlrl.training.options import ConfigError
from vlrl.training.stopping import GRACE_S
from vlrl.training.video_options import video_reading

SIDES = ("before", "after")
EMBEDDED_TOKENS, EMBEDDED_TASK_TOKENS = 32, 96
"""Most tokens of an embedded model's answers: in benchmarks that are not tasks, and in tasks it is not trained on here."""
_LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_LAUNCHER = ("GROUP_", "ROLE_", "TORCHELASTIC_", "TORCH_NCCL_", "ACCELERATE_", "FSDP_")


@dataclass(frozen=True)
class Around:
    """The benchmarks of a run. `coords`: how the model the run started from writes boxes, None where that is not known."""

    config: Config
    folder: Path
    coords: str | None
    n_processes: int
    failed: dict[str, str] = field(default_factory=dict)
    """Benchmark -> what went wrong and how to repeat it."""

    def words(self, name: str, side: str) -> list[str]:
        """`bench run`'s flags for one benchmark of one side."""
        config = self.config
        model, grpo, options = config.model, config.grpo, config.run
        embedded, random = model.model_name_or_path in TINY_NAMES, str(model.model_name_or_path).endswith("-random")
        before = side == "before"
        flags: dict[str, Any] = {
            "task": name,
            "model_name_or_path": model.model_name_or_path if before else self.folder / "final",
            "output_path": self.path(name, side),
            "limit": config.bench.limit,
            "seed": grpo.seed if random else None,
            "revision": model.model_revision if before and model.model_revision != "main" else None,
            "dtype": model.dtype if model.dtype not in (None, "auto") else None,
            "attn_implementation": model.attn_implementation,
            "coords": self.coords,
            "min_pixels": options.min_pixels,
            "max_pixels": options.max_pixels,
            "video_fps": config.prompts.video_fps,
            "video_max_frames": config.prompts.video_max_frames,
            "video_as": "frames" if video_reading(config).as_frames else None,
            "max_new_tokens": _max_tokens(config, name, embedded),
            "device": "cpu" if grpo.use_cpu else None,
            **(_prompts(config) if name in options.task.split(",") else {}),
            **dict(zip(("answer_format", "box_format"), config.layout, strict=True)),
        }
        words = [word for key, value in flags.items() if value is not None for word in (f"--{key}", str(value))]
        words += ["--trust_remote_code"] if grpo.trust_remote_code else []
        return ["run", *words, *config.bench.flags.get(name, ())]

    def path(self, name: str, side: str) -> Path:
        return self.folder / "bench" / side / folder_name(name)

    def check(self) -> None:
        """Check the flags and data of every benchmark by a dry run. Raises ConfigError."""
        for name in self.config.bench.names:
            done = _bench([*self.words(name, "before"), "--dry_run"], capture=True)
            if done.returncode:
                why = (done.stderr or done.stdout).strip().splitlines()[-1:]
                raise ConfigError(f"--bench {name}: {' '.join(why).removeprefix('error: ')}")

    def measure(self, say: Callable[..., None]) -> list[dict[str, Any]]:
        """Evaluate both models and pair their answers. A benchmark that fails is recorded in `failed`; the others go on."""
        found = []
        for name in self.config.bench.names:
            done = {side: self._measured(name, side, say) for side in SIDES}
            if all(done.values()):
                paired = self._paired(name)
                found += paired
                if not paired and name not in self.failed:
                    self.failed[name] = "the two results share no number that can be paired"
        return found

    def pictures(self) -> dict[str, str]:
        """Benchmark -> the picture of its scores before and after, a file in the run folder; of those that have one."""
        found = {}
        for name in self.config.bench.names:
            drawn = self.folder / "bench" / "diff" / folder_name(name) / DIFF_PICTURE
            if drawn.is_file():
                found[name] = f"bench_{folder_name(name)}.png"
                shutil.copyfile(drawn, self.folder / found[name])
        return found

    def _measured(self, name: str, side: str, say: Callable[..., None]) -> bool:
        words = self.words(name, side)
        say(f"\nbench     {name}, {side} training: {shlex.join(['vlrl-bench', *words])}")
        code = _bench(words, n_processes=self.n_processes).returncode
        if code:
            why = f"{side} training it ended with exit code {code}; repeat it: {shlex.join(['vlrl-bench', *words])}"
            self.failed[name] = f"{self.failed[name]}; {why}" if name in self.failed else why
        return code == 0

    def _paired(self, name: str) -> list[dict[str, Any]]:
        """The paired differences of `bench diff`, as records with the benchmark's name."""
        a, b = (self.path(name, side) for side in SIDES)
        out = self.folder / "bench" / "diff" / folder_name(name)
        done = _bench(["diff", str(a), str(b), "--output_path", str(out)], capture=True)
        if done.returncode:
            self.failed[name] = (done.stderr or done.stdout).strip()
            return []
        compared = json.loads((out / "diff.json").read_text(encoding="utf-8"))["differences"]
        return [{"benchmark": name, **record} for record in compared]


def _prompts(config: Config) -> dict[str, Any]:
    """The run's own words, for its own tasks."""
    return {name: getattr(config.prompts, name) for name in ("system_prompt", "prompt_template")}


def _max_tokens(config: Config, name: str, embedded: bool) -> int | None:
    """The run's own tasks get the limit of its completions. Other benchmarks have limits of their own, lowered for embedded
    models only, for `final/` as for the model it came from."""
    if name in config.run.task.split(","):
        return config.grpo.max_completion_length
    if not embedded:
        return None
    return EMBEDDED_TOKENS if family_of(name) is not None else EMBEDDED_TASK_TOKENS


def _bench(words: list[str], n_processes: int = 1, capture: bool = False) -> subprocess.CompletedProcess[str]:
    """`python -m vlrl.bench`, on as many processes of this machine as trained, apart from the launcher that started us."""
    env = {key: value for key, value in os.environ.items() if key not in _LAUNCHED and not key.startswith(_LAUNCHER)}
    root = str(Path(__file__).resolve().parents[2])
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [root, env.get("PYTHONPATH", "")]))
    launcher = [sys.executable, "-m"]
    if n_processes > 1:
        launcher += ["torch.distributed.run", "--standalone", "--nproc_per_node", str(n_processes), "-m"]
    command = [*launcher, "vlrl.bench", *words]
    pipe = subprocess.PIPE if capture else None
    with subprocess.Popen(command, env=env, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            out, err = process.communicate()
        except BaseException:  # a request to stop is passed on; what was answered is kept
            process.terminate()
            try:
                process.wait(GRACE_S / 2)
            except subprocess.TimeoutExpired:
                process.kill()
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def write_benchmarks(around: Around, say: Callable[..., None]) -> bool:
    """Measure, add `bench` to `summary.json` and print the table; True where every benchmark was measured."""
    found = around.measure(say)
    path = around.folder / "summary.json"
    summary = json.loads(path.read_text(encoding="utf-8"))
    summary["bench"] = {
        "differences": found,
        "failed": around.failed,
        "folder": str(around.folder / "bench"),
        "pictures": around.pictures(),
    }
    write_json(path, summary)
    write_card(around.folder)
    if found:
        say("\nthe benchmark before and after training, on the same samples; 95 % bootstrap intervals of the difference")
        say(before_after_table(found))
    for name, why in around.failed.items():
        say(f"bench     {name} was not measured: {why}")
    for name, picture in summary["bench"]["pictures"].items():
        say(f"bench     {name}, before and after: {around.folder / picture}")
    if around.failed:
        say(f"          the run itself is complete: {around.folder / 'final'}")
    say(f"\n{path}")
    return not around.failed


def before_after_table(found: list[dict[str, Any]]) -> str:
    """A row a metric: before, after, the paired difference. Numbers of single groups (`name[group]`), and of the parts of a
    number that stands here, are only in `summary.json`. p-values of such numbers are corrected for their number (Holm)."""
    rows = []
    for one in without_parts(found)[0]:
        if "[" in one["metric"]:
            continue
        interval = "-" if one["ci95"] is None else f"[{one['ci95'][0]:+.4f}, {one['ci95'][1]:+.4f}]"
        numbers = [_shown(one, key, form) for key, form in (("a", ".4f"), ("b", ".4f"), ("difference", "+.4f"))]
        p_value = _shown(one, "p_holm" if "p_holm" in one else "p_value", ".4f")
        rows.append([_label(one), one["metric"], *numbers, interval, p_value, str(one["n"])])
    header = ["benchmark", "metric", "before", "after", "difference", "95 % interval", "p", "n"]
    return text_table(header, rows, markdown=True)


def _label(one: Mapping[str, Any]) -> str:
    return str(one["benchmark"]) if one["benchmark"] == one["task"] else f"{one['benchmark']} ({one['task']})"


def _shown(one: Mapping[str, Any], key: str, form: str) -> str:
    return "-" if one[key] is None else format(one[key], form)
