"""`README.md` of a run and of its `final/`: a model card in which every line is a fact of that run.

It is made of `summary.json` alone, so it can be written again when benchmarks add their numbers. Not here: what is measured.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from vlrl.data.files import read_json_object, write_whole
from vlrl.data.markup import readable
from vlrl.metrics.composite import without_parts
from vlrl.metrics.tables import text_table

CARD = "README.md"
PICTURE = "samples.png"
PIPELINE = "image-text-to-text"
BOXES_ARE = {
    "resized_px": "pixels of the image as the processor resizes it (a multiple of the patch size a side)",
    "norm1000": "thousandths of the image's width and height",
    "norm1": "fractions of the image's width and height, between 0 and 1",
    "px": "pixels of the image file",
}
"""What the numbers of a box are, by coordinate convention (docs/data.md)."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_LIBRARIES = ("vlrl", "trl", "transformers", "torch", "peft")


def write_card(folder: Path) -> None:
    """Write the card of a run that has its `summary.json`, into its folder and, with the picture of samples, into `final/`.
    Raises OSError."""
    summary = read_json_object(folder / "summary.json")
    final = folder / "final"
    has_picture = (folder / PICTURE).is_file()
    text = card_text(summary, folder.name, has_picture=has_picture)
    write_whole(folder / CARD, text, "backslashreplace")
    if final.is_dir():
        write_whole(final / CARD, text, "backslashreplace")
        pictures = (summary.get("bench") or {}).get("pictures") or {}
        for name in filter(lambda one: (folder / one).is_file(), (PICTURE, *pictures.values())):
            shutil.copyfile(folder / name, final / name)


def write_draft(folder: Path, base: str, step: int) -> None:
    """The card of a run that is under way, which its checkpoints may be published with. Raises OSError."""
    said = f"A checkpoint after step {step} of training {code(base)} with vlrl. It was not measured yet."
    text = f"---\n{metadata(base, folder.name)}\n---\n\n# {on_one_line(folder.name)}\n\n{said}\n"
    write_whole(folder / CARD, text, "backslashreplace")


def card_text(summary: Mapping[str, Any], name: str, *, has_picture: bool = False) -> str:
    """The whole card. `summary`: what `summary.json` holds; `name`: of the model."""
    picture = f"![held-out samples: what is true, and answers before and after training]({PICTURE})"
    bench = summary.get("bench") or {}
    sections = [
        f"---\n{metadata(str(summary['model']), name, summary)}\n---",
        f"# {on_one_line(name)}",
        introduction(summary),
        f"## Before and after\n\n{numbers_table(summary)}",
        picture if has_picture else "",
        f"## Benchmarks\n\n{benchmarks(bench)}" if bench.get("differences") else "",
        f"## Use\n\n{use(summary['example'], summary.get('coords'))}" if summary.get("example") else "",
        f"## Training\n\n{training(summary)}",
        f"## Limits\n\n{limits(summary)}",
        f"## Events\n\nWhile it trained, the run noted: {events(summary['events'])}." if summary.get("events") else "",
    ]
    return "\n\n".join(filter(None, sections)) + "\n"


def metadata(base: str, name: str, summary: Mapping[str, Any] | None = None) -> str:
    """The YAML header, written by huggingface_hub. A local folder is no base model of the hub and is left out. So is a licence:
    that of the base model holds."""
    task = None if summary is None else on_one_line(summary["task"])
    pipeline = None if summary is not None and summary["stage"] in ("prm", "rm") else PIPELINE
    results = []
    for metric, measured in ({} if summary is None else summary["after"]).items():
        if measured["value"] is not None and "[" not in metric:
            rows = on_one_line(summary and summary["data"])
            found = EvalResult(PIPELINE, "held-out", rows, metric, measured["value"], task_name=task)
            results.append(found)
    tags = ["vlrl", "trl", *([] if summary is None else str(summary["stage"]).split("+")), *(task or "").split(",")]
    data = ModelCardData(
        base_model=base if _HUB_ID.fullmatch(base) and not Path(base).exists() else None,
        library_name="transformers",
        pipeline_tag=pipeline,
        tags=[tag for tag in dict.fromkeys(tags) if re.fullmatch(r"[\w.-]+", tag)],
        model_name=on_one_line(name),
        eval_results=results or None,
    )
    return str(data.to_yaml())


def introduction(summary: Mapping[str, Any]) -> str:
    """What it is."""
    base, task, version = code(summary["model"]), code(summary["task"]), summary["versions"]["vlrl"]
    if summary["stage"] == "prm":
        return f"{base} with a head that scores the steps of a solution, trained with vlrl {version}."
    if summary["stage"] == "rm":
        return f"{base} with a head that scores answers, trained on which of two is preferred, with vlrl {version}."
    how = {"grpo": "by GRPO", "sft": "by imitation", "sft+grpo": "by imitation and then by GRPO"}
    return (
        f"{base}, trained {how.get(summary['stage'], summary['stage'])} on the task {task} with vlrl {version}. Its rewards"
        f" ({', '.join(map(code, summary.get('rewards', ())))}) compare an answer with what is known to be true."
    )


def numbers_table(summary: Mapping[str, Any]) -> str:
    """A row a metric: before and after, each with its 95 % interval."""
    sides = [side for side in ("start", "before", "after") if side in summary]
    names = list(dict.fromkeys(name for side in sides for name in summary[side] if "[" not in name))
    rows = []
    for name in names:
        found = [summary[side].get(name) for side in sides]
        n = next(one["n"] for one in found if one is not None)
        rows.append([cell(name), *map(_with_interval, found), str(n)])
    titles = {"start": "base model", "before": "before GRPO" if "start" in sides else "before", "after": "after"}
    table = text_table(["metric", *(titles[side] for side in sides), "n"], rows, markdown=True)
    return f"Held-out samples, greedy decoding; in brackets 95 % bootstrap intervals.\n\n{table}"


def _with_interval(measured: Mapping[str, Any] | None) -> str:
    if measured is None or measured["value"] is None:
        return "-"
    digits = 1 if measured["value"] >= 10 else 3
    low_high = measured["ci95"]
    interval = "" if low_high is None else f" [{low_high[0]:.{digits}f}, {low_high[1]:.{digits}f}]"
    return f"{measured['value']:.{digits}f}{interval}"


def benchmarks(bench: Mapping[str, Any]) -> str:
    """The paired differences of `--bench`, a row a metric, and its pictures."""
    rows = []
    for one in without_parts(bench["differences"])[0]:
        if "[" in one["metric"] or one["difference"] is None:
            continue
        interval = "-" if one["ci95"] is None else f"[{one['ci95'][0]:+.3f}, {one['ci95'][1]:+.3f}]"
        values = [f"{one['a']:.3f}", f"{one['b']:.3f}", f"{one['difference']:+.3f}", interval]
        rows.append([cell(one["benchmark"]), cell(one["metric"]), *values, str(one["n"])])
    header = ["benchmark", "metric", "before", "after", "difference", "95 % interval", "n"]
    said = "The same samples before and after training; paired differences."
    drawn: Mapping[str, str] = bench.get("pictures") or {}
    pictures = [f"![{cell(name)}: scores before and after training]({file})" for name, file in drawn.items()]
    return "\n\n".join([said, text_table(header, rows, markdown=True), *pictures])


def use(example: Mapping[str, Any], coords: str | None) -> str:
    """Code that asks the model as it was trained to be asked. It runs in the folder that holds the weights."""
    n, options = example["n_images"], f", {'trust_remote_code=True'}" if example.get("trust_remote_code") else ""
    names = ["image.png"] if n == 1 else [f"image{i + 1}.png" for i in range(n)]
    parts = [*({"type": "image"} for _ in names), {"type": "text", "text": example["prompt"]}]
    messages = [{"role": "user", "content": parts}]
    if example.get("system"):
        messages.insert(0, {"role": "system", "content": [{"type": "text", "text": example["system"]}]})
    template = "".join(f", {name}={value!r}" for name, value in (example.get("template") or {}).items())
    images = f"images = [Image.open(name).convert('RGB') for name in {names!r}]  # yours" if n else "images = None"
    program = [
        *(["from PIL import Image"] if n else []),
        "from transformers import AutoModelForImageTextToText, AutoProcessor",
        "",
        'folder = "."  # where this file lies, or its name on the hub',
        f"processor = AutoProcessor.from_pretrained(folder{options})",
        f"model = AutoModelForImageTextToText.from_pretrained(folder{options})",
        images,
        "messages = [",
        *(f"    {message!r}," for message in messages),
        "]",
        f"text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False{template})",
        'inputs = processor(text=[text], images=images, return_tensors="pt").to(model.device)',
        f"output = model.generate(**inputs, max_new_tokens={example['max_new_tokens']}, do_sample=False)",
        'print(processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0])',
    ]
    lines = "\n".join(program)
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", lines)), 3)
    boxes = f"\n\nNumbers of boxes are {BOXES_ARE[coords]}." if coords in BOXES_ARE and example.get("has_boxes") else ""
    asked = "as it was asked in training"
    if example.get("as_video"):
        asked = "its frames as images (in training they were shown as a video)"
    return f"One of the held-out prompts, {asked}:\n\n{fence}python\n{lines}\n{fence}{boxes}"


def training(summary: Mapping[str, Any]) -> str:
    """How it was made: command, data, sizes, versions."""
    seconds, versions = float(summary["train_seconds"]), summary["versions"]
    took = f"{seconds / 3600:.1f} hours" if seconds >= 5400 else f"{seconds / 60:.1f} minutes"
    where = summary.get("hardware")
    hashes = "".join(f"; SHA-256 of {code(path)}: {digest}" for path, digest in (summary.get("digests") or {}).items())
    rows = [
        f"- command: {code(summary['command'])}",
        f"- data: {cell(summary['data'])}{hashes}",
        f"- steps: {summary['steps']:,}, seed {summary['seed']}, {took}{f' on {cell(where)}' if where else ''}",
        f"- versions: {', '.join(f'{name} {versions[name]}' for name in _LIBRARIES if name in versions)}",
    ]
    return "\n".join([*rows, *([f"- source of vlrl: {code(summary['git'])}"] if summary.get("git") else [])])


def limits(summary: Mapping[str, Any]) -> str:
    """What a reader must not conclude."""
    n = next(iter(summary["after"].values()))["n"] if summary["after"] else 0
    known = [f"The numbers are those of {n:,} held-out samples of this data. Nothing else was measured unless it stands above."]
    if "synthetic" in str(summary["data"]):
        known.append("It was trained and measured on drawn scenes, which say nothing about photographs.")
    for key, words in (("n_unparsed", "could not be read as an answer"), ("n_truncated", "were cut off at the longest length")):
        if summary.get(key):
            known.append(f"{summary[key]:,} of {n:,} completions {words} and count as wrong.")
    known.append("A reward sees only what it checks: a right answer may come with wrong reasons.")
    known.append("The licence and the limits of the base model hold.")
    return "\n".join(f"- {one}" for one in known)


def events(found: Sequence[Mapping[str, Any]]) -> str:
    """The events of a run in words."""
    return ", ".join(f"{row['event']} ({row['stage']} step {row['step']})" for row in found)


def on_one_line(text: object) -> str:
    """A text on one line, what cannot be seen spelled out."""
    return " ".join(readable(str(text)).split())


def cell(text: object) -> str:
    """A text in a table or a line of Markdown, where it is text and no markup."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", on_one_line(text))


def code(text: object) -> str:
    """A text as inline code, whatever it holds."""
    line = on_one_line(text)
    fence = "`" * (max((len(run) for run in re.findall("`+", line)), default=0) + 1)
    return f"{fence} {line} {fence}" if len(fence) > 1 else f"`{line}`"
