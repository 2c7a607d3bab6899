"""`vlrl data look`: one page about a file of samples, to be read before a GPU is paid for.

`vlrl bench check --pictures PAGE` writes the same page with the bad rows. Of a large set a part is looked at, drawn by seed;
the page says how much. Only `--model_name_or_path` imports torch.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from vlrl.bench.check_rows import row_fault
from vlrl.bench.flag_types import whole_from
from vlrl.bench.look_copies import alike, look_at
from vlrl.bench.look_numbers import answer_text, numbers_of, repeated_prompts
from vlrl.bench.look_page import AskedSample, Copies, Look, SampleCard, write_look
from vlrl.bench.video_flags import video_flags
from vlrl.data.decontaminate import can_compare
from vlrl.data.identity import Pictures
from vlrl.data.image_checks import image_index, size_problem
from vlrl.data.image_notes import form_notes
from vlrl.data.sample_sets import SampleSet, read_set
from vlrl.data.subsets import drawn
from vlrl.data.synthetic import item_rng
from vlrl.schema import ANSWER_FORMATS, BOX_FORMATS, COORDS, Box, Prediction, Sample, Task
from vlrl.tasks import KNOWN, is_built_in, load_tasks
from vlrl.tasks.evaluate import boxes_of
from vlrl.tasks.prompt_template import template_problem, text_or_file, with_prompt
from vlrl.tasks.rubric import answer_problem_of

_N_COUNTED, _N_CARDS, _N_IMAGES = 20_000, 60, 1_000
"""Rows that are counted, samples on the contact sheet, images that are opened and compared: at most, drawn by seed."""
_FAILURES = (ValueError, TypeError, KeyError, AttributeError, IndexError)
"""What a row of a wrong form makes of a prompt or an answer; the page says which."""
_MAX_BAD = 20
"""Lines about bad rows on the page."""


def parse_look(words: Sequence[str]) -> argparse.Namespace:
    """The flags of `vlrl data look`. Exits with 2 for a wrong command line."""
    parser = argparse.ArgumentParser(prog="vlrl data", description="Look at training data before training.", allow_abbrev=False)
    look = parser.add_subparsers(dest="command", required=True).add_parser(
        "look", help="write a page of counts, copies and samples with their boxes", allow_abbrev=False
    )
    add = look.add_argument
    add("--data", required=True, help="samples.jsonl, or files of other projects as `train --data` takes them (several: a,b)")
    add("--out", type=Path, metavar="PAGE.html", help="the page (default: NAME_look.html in this folder)")
    add("--task", help="path/to/my_task.py that defines tasks of your own in --data, or the task of rows that name none")
    add("--image_root", type=Path, help="folder that image paths are relative to")
    add("--n_samples", type=whole_from(1), default=_N_CARDS, metavar="N", help=f"samples on the page, drawn ({_N_CARDS})")
    add(
        "--n_images",
        type=whole_from(1),
        default=_N_IMAGES,
        metavar="N",
        help=f"images that are opened and compared, drawn ({_N_IMAGES})",
    )
    add("--seed", type=int, default=0, help="seed of what is drawn")
    add("--coords", choices=COORDS, default="px", help="how the prompt asks for boxes, without a model")
    add("--answer_format", choices=ANSWER_FORMATS, help="answer format of samples that do not state one")
    add("--box_format", choices=BOX_FORMATS, help="box format of samples that do not state one")
    add("--system_prompt", help="a system message before every question: a text, or a file that holds one")
    add("--prompt_template", help="the prompt, a text or a file: {question} and its choices, or {prompt} of the task")
    add("--model_name_or_path", help="show the prompt as this model gets it, with its tokens; no weights are read")
    add("--min_pixels", type=whole_from(1), help="smallest image the model sees, in pixels")
    add("--max_pixels", type=whole_from(1), help="largest image the model sees, in pixels")
    video_flags(look)
    look.set_defaults(run=look_at_data)
    return parser.parse_args(list(words))


def look_at_data(args: argparse.Namespace) -> int:
    """Write the page and print its path. Raises ValueError, OSError."""
    out = args.out or Path(f"{Path(str(args.data).split(',')[0]).stem}_look.html")
    texts = [text_or_file(name, getattr(args, name)) for name in ("system_prompt", "prompt_template")]
    if problem := template_problem(texts[1]):
        raise ValueError(problem)
    known = KNOWN if args.task is None else {**KNOWN, **{task.name: task for task in load_tasks(args.task)}}
    tasks = {name: with_prompt(task, *texts) for name, task in known.items()}
    rows = read_set(args.data, args.image_root, need_images=False, tasks=[args.task] if args.task in KNOWN else ())
    write_page_of(out, rows, args, tasks)
    print(out)
    return 0


def write_page_of(
    out: Path, rows: SampleSet, args: argparse.Namespace, tasks: Mapping[str, Task], bad: Sequence[str] = ()
) -> None:
    """Write the page of these rows. `bad`: rows that a check found, in a line each. Raises ValueError, OSError."""
    if out.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"{out}: the page is HTML; give a name that ends in .html")
    seed, n_images = getattr(args, "seed", 0), getattr(args, "n_images", _N_IMAGES)
    counted = list(rows.drawn(_N_COUNTED, seed))
    chosen = drawn(counted, getattr(args, "n_samples", _N_CARDS), seed)
    paths = _drawn_paths(counted, chosen, n_images, seed)
    seen, unread = look_at(paths)
    sizes = {path: one.size for path, one in seen.items()}
    answers = {sample.id: _reference(sample, tasks) for sample in counted}
    numbers = numbers_of(counted, sizes, answers)
    groups = alike(seen)
    copies = _named_copies(groups, counted)
    odd = [*rows.notes, *bad[:_MAX_BAD], *([f"and {len(bad) - _MAX_BAD:,} more bad rows"] if len(bad) > _MAX_BAD else [])]
    odd += [f"{name}: {line}" for name, one in numbers.items() for line in one.remarks()]
    faults = {sample.id: fault for sample in counted if (fault := _fault(sample, tasks, sizes))}
    if faults:
        key, fault = next(iter(faults.items()))
        odd.append(
            f"{len(faults):,} of {len(counted):,} rows cannot be used or mean something else, the first: {key!r}: {fault}"
        )
    if n := repeated_prompts(counted):
        odd.append(f"{n:,} of {len(counted):,} rows ask what an earlier row asks of the same image")
    if unread:
        odd.append(f"{len(unread):,} of {len(paths):,} images cannot be shown, the first: {next(iter(unread.values()))}")
    odd += form_notes(chosen if len(paths) >= n_images else counted)
    if apart := sum(group.apart for group in copies):
        which = f"{apart:,} groups of images look alike and are" if apart > 1 else "one group of images looks alike and is"
        odd.append(
            f"{which} not known to be one picture, so a split may part them: give them one meta.group, or leave copies out"
        )
    is_part, has_more = len(counted) < len(rows), _n_paths(counted) > len(paths)
    facts = {
        "data": str(args.data),
        "rows": f"{len(rows):,}" + (f", of which {len(counted):,} were drawn and counted" if is_part else ""),
        "images": f"{len(paths):,} were opened" + (f", drawn from {_n_paths(counted):,}" if has_more else ""),
        "model": getattr(args, "model_name_or_path", None) or "none: prompts are shown without a model's own frame",
    }
    asked_as = _prompts(args, tasks)
    cards = [_card(sample, tasks, asked_as, sizes, faults.get(sample.id)) for sample in chosen]
    look = Look(
        f"{Path(str(args.data)).name}: {len(rows):,} rows", facts, odd, numbers, list(sizes.values()), copies,
        _note(groups, paths), cards, f"{len(cards):,} of {len(rows):,}, drawn by seed {seed} with answers in their shares.",
    )  # fmt: skip
    write_look(out, look)


def _n_paths(samples: Sequence[Sample]) -> int:
    return len({path for sample in samples for path in sample.images})


def _drawn_paths(samples: Sequence[Sample], chosen: Sequence[Sample], n: int, seed: int) -> list[str]:
    """The images of the samples shown, and others drawn up to `n`."""
    first = list(dict.fromkeys(path for sample in chosen for path in sample.images))
    others = [path for path in dict.fromkeys(path for sample in samples for path in sample.images) if path not in set(first)]
    order = item_rng("images to look at", seed).permutation(len(others))[: max(0, n - len(first))]
    return first + [others[i] for i in sorted(map(int, order))]


def _note(groups: Sequence[Sequence[str]], paths: Sequence[str]) -> str:
    if not can_compare():
        return "Not looked for: the library imagehash is missing (pip install 'vlrl[data]')."
    what = f"{len(paths):,} images were compared by perceptual hash (it finds scaled and recompressed copies, no crops). "
    yellow = " A split may part those on yellow; the others are known to be one picture."
    return what + (f"Groups that look alike: {len(groups):,}.{yellow}" if groups else "No two look alike.")


def _named_copies(groups: Sequence[Sequence[str]], samples: Sequence[Sample]) -> list[Copies]:
    """Each image with the ids that show it, those first that a split would not keep together."""
    wanted = {path for group in groups for path in group}
    rows = [sample for sample in samples if wanted & set(sample.images)]
    pictures = Pictures(rows)
    ids: dict[str, list[str]] = {}
    kept: dict[str, int] = {}
    for number, sample in enumerate(rows):
        for path in dict.fromkeys(sample.images):
            ids.setdefault(path, []).append(sample.id)
            kept[path] = min(pictures.with_equal_bytes(int(pictures.groups[number])))

    def named(path: str) -> str:
        return ids[path][0] + (f" and {len(ids[path]) - 1} more" if len(ids[path]) > 1 else "")

    found = [Copies([(path, named(path)) for path in group], len({kept[path] for path in group}) > 1) for group in groups]
    return sorted(found, key=lambda group: not group.apart)


def _reference(sample: Sample, tasks: Mapping[str, Task]) -> str:
    """The completion that earns full marks, "" where it is not known or cannot be written."""
    task = tasks.get(sample.task)
    if task is None or task.oracle is None or task.is_episode(sample):
        return ""
    try:
        return task.oracle(sample)
    except _FAILURES:
        return ""  # the answer has a wrong form, which the card says


def _fault(sample: Sample, tasks: Mapping[str, Task], sizes: Mapping[str, tuple[int, int]]) -> str | None:
    """Why a row cannot be used, or that it says something else than meant; None where neither is so."""
    task = tasks.get(sample.task)
    if task is None:
        return f"no task is named {sample.task!r}; give its file: --task my_task.py"
    shown = [sizes[path] for path in sample.images if path in sizes]
    try:
        problem = answer_problem_of(task, sample)
        if problem is None and sample.video is None and shown and len(shown) == len(sample.images):
            problem = size_problem(sample, shown)
            sample = dataclasses.replace(sample, meta={**sample.meta, "image_size": list(shown[image_index(sample)])})
        return problem or (row_fault(sample) if is_built_in(task) else None)
    except _FAILURES as error:
        return f"{type(error).__name__}: {error}"


def _prompts(args: argparse.Namespace, tasks: Mapping[str, Task]) -> Callable[[Sample], AskedSample]:
    """Sample -> how it is asked."""
    if getattr(args, "model_name_or_path", None):
        from vlrl.bench.look_model import prompts_of_model  # imports torch

        return prompts_of_model(args, tasks)
    coords = getattr(args, "coords", "px")
    forms = {name: form for name in ("answer_format", "box_format") if (form := getattr(args, name, None))}

    def shown(sample: Sample) -> AskedSample:
        task = tasks[sample.task]
        view = dataclasses.replace(sample.view, coords=sample.view.coords or coords)
        ready = dataclasses.replace(sample, meta={**forms, **sample.meta}, view=view)
        text = task.prompt(ready)
        return AskedSample(ready, f"(system) {task.system}\n\n{text}" if task.system else text, ())

    return shown


def _card(
    sample: Sample,
    tasks: Mapping[str, Task],
    asked_as: Callable[[Sample], AskedSample],
    sizes: Mapping[str, tuple[int, int]],
    problem: str | None,
) -> SampleCard:
    task = tasks.get(sample.task)
    known = [path for path in sample.images if path in sizes]
    lines = [f"task {sample.task}", *("{}x{} px: {}".format(*sizes[path], path) for path in known)]
    lines += [sample.video] if sample.video else []
    lines += [f"{key}: {value!r:.200}" for key, value in sample.meta.items()]
    answer, shown, prompt = answer_text(sample.answer), sample, ""
    boxes: Sequence[Box] = ()
    if task is not None:
        try:
            asked = asked_as(sample)
            prompt, answer, lines = asked.prompt, _reference(asked.ready, tasks) or answer, [*asked.lines, *lines]
            found = boxes_of(task, sample, Prediction(sample.id, "", 0, False))
            boxes = () if found is None else found[0]
            shown = task.shown_as(sample)
        except _FAILURES as error:
            problem = problem or f"{type(error).__name__}: {error}"
    return SampleCard(sample, shown, prompt, answer, boxes, lines, problem)
