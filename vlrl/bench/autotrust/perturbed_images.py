"""The images that an AutoTrust run makes before it asks: attacked and corrupted ones, as PNG files in the run's folder.

An existing file is not made again. `pictures/attacks.part*.jsonl` logs the result and the time of each attack. Not here: the
attacks (`vlrl.bench.autotrust.attacks`) and corruptions (`vlrl.bench.autotrust.corruptions`) themselves.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from vlrl.bench.autotrust.attack_settings import CONTROL, Attack, read_attacks, target_of
from vlrl.bench.autotrust.corruptions import chosen_corruptions, corrupt
from vlrl.bench.autotrust.parts import ATTACK_PARTS, CLEAN, PARTS, Ask, Options, Part
from vlrl.data.images import ImageError, open_image
from vlrl.data.sample_files import is_there
from vlrl.schema import Sample

LOG = "attacks"
MEMORY_SHARE, SMALL = 8, 50_000_000
"""Images attacked at once: `--batch_size` divided by `MEMORY_SHARE`, as gradients need more memory than answers; not divided
for models of fewer parameters than `SMALL`."""
PartOptions = Mapping[str, tuple[str, ...]]


def image_options(
    args: argparse.Namespace, parts: Sequence[Part], given: PartOptions, whole: bool
) -> tuple[list[Part], Options]:
    """The parts to run, and the options of their images. `given`: options of the part; `whole`: `--task autotrust`, which runs
    attacks only where `--attack` or `--attack_model` is given. With an attack its control and factuality run too. Raises
    ValueError."""
    names = [part.name for part in parts]
    wanted = [] if whole else [name for name in ATTACK_PARTS if name in names]
    if not wanted and whole:
        wanted = [name for name, asked in zip(ATTACK_PARTS, (args.attack, args.attack_model, 1), strict=True) if asked]
        wanted = wanted if args.attack or args.attack_model else []
    elif not wanted and (args.attack or args.attack_model):
        raise ValueError(
            f"--attack and --attack_model are for autotrust and autotrust/{ATTACK_PARTS[0]}, not {', '.join(names)}"
        )
    if "white_box_attack" in wanted and (getattr(args, "base_url", None) or getattr(args, "use_vllm", False)):
        raise ValueError(
            "a white-box attack needs gradients of the model, so the model must be in this process: leave out --base_url and"
            " --use_vllm, or attack another model and transfer: --attack_model NAME"
        )
    if "black_box_attack" in wanted and args.attack_model is None:
        raise ValueError(
            "autotrust/black_box_attack: the attacked images were not released; name a model to attack: --attack_model NAME"
        )
    if wanted and not whole:
        wanted += [ATTACK_PARTS[1]] if args.attack_model and ATTACK_PARTS[1] not in wanted else []
        needed = ["factuality", *wanted, *(["attack_control"] if ATTACK_PARTS[2] not in wanted else [])]
        parts = [PARTS[name] for name in dict.fromkeys(needed)]
    else:
        parts = [part for part in parts if part.name not in ATTACK_PARTS or part.name in wanted]
    attacks = read_attacks(args.attack or "pgd", given) if wanted else ()
    corruptions = chosen_corruptions(given.get("corruption", ()), given.get("severity", ()))
    return list(parts), Options(attacks=attacks, surrogate=args.attack_model, corruptions=corruptions)


@dataclass
class PerturbedImages:
    """The images of one run. `folder`: where its answers are logged."""

    options: Options
    folder: Path
    batch_size: int = 16
    asks: dict[str, Ask] = field(default_factory=dict)
    attackers: dict[str | None, Any] = field(default_factory=dict)

    def place(self, sample: Sample, ask: Ask) -> Sample:
        """The sample with the path of the image to be made; `meta.source` is the image that it is made from."""
        if not PARTS[ask.part].makes_images or ask.setting == CLEAN or not sample.images:
            return sample
        setting = re.sub(r"[^A-Za-z0-9.-]+", "_", ask.setting)
        name = f"{Path(ask.question.file).with_suffix('')}-{ask.question.index}.png"
        self.asks[sample.id] = ask
        path = self.folder / "pictures" / ask.part / setting / name
        return dataclasses.replace(sample, images=(str(path),), meta={**sample.meta, "source": sample.images[0]})

    def prepare(self, engine: Any, samples: Sequence[Sample]) -> list[Sample]:
        """Make the missing images, each process its share. A sample whose source is missing or cannot be read is returned with
        the source, so that it counts as missing like any other. Raises ModelError for a model that cannot be attacked."""
        self._load_attackers(engine)
        todo: dict[tuple[str, str], list[Sample]] = {}
        for sample in samples:
            source = sample.facts.get("source")
            if source is not None and is_there(source) and not Path(sample.images[0]).is_file():
                ask = self.asks[sample.id]
                todo.setdefault((ask.part, ask.setting), []).append(sample)
        for (part, setting), some in todo.items():
            mine = some[engine.rank :: engine.world]
            if part in ATTACK_PARTS:
                self._attack(engine, part, setting, mine, len(some))
            else:
                for sample in tqdm(mine, desc=f"{part} {setting}", disable=True if engine.rank > 0 else None, leave=False):
                    self._corrupt(sample, setting)
        engine.wait_for_everyone()
        made = []
        for sample in samples:
            source = sample.facts.get("source")
            if source is not None and not Path(sample.images[0]).is_file():
                sample = dataclasses.replace(sample, images=(str(source),))
            made.append(sample)
        return made

    def _corrupt(self, sample: Sample, name: str) -> None:
        question = self.asks[sample.id].question
        try:
            clean = open_image(sample.facts["source"])
        except ImageError:
            return
        save(corrupt(clean, name, self.options.seed, question.file, question.index), Path(sample.images[0]))

    # ---- attacks

    def _load_attackers(self, engine: Any) -> None:
        """Load the models to attack before anything is asked, so that one that cannot be attacked stops the run at its
        start."""
        settings = self.options.attacks
        if not settings or self.attackers:
            return
        from vlrl.bench.autotrust.attacks import Attacker
        from vlrl.models.load import load_model

        if hasattr(engine, "loaded"):
            self.attackers[None] = Attacker(engine.loaded)
        if self.options.surrogate is not None:
            surrogate = load_model(self.options.surrogate)
            if hasattr(engine, "loaded"):
                surrogate.model.to(engine.loaded.device)
            self.attackers[self.options.surrogate] = Attacker(surrogate)

    def _attack(self, engine: Any, part: str, setting: str, samples: Sequence[Sample], n_all: int) -> None:
        """Attack images in batches; save each, check the bound on the saved file, log the result, and print the time."""
        from vlrl.bench.autotrust.attacks import Aim, check_saved

        attack = self._named(setting)
        surrogate = self.options.surrogate if part == "black_box_attack" else None
        attacker = self.attackers.get(surrogate) or next(iter(self.attackers.values()))
        first = engine.rank == 0
        name = f"{part} {setting}"
        if first and attack.name != CONTROL:
            passes = f"{attack.n_steps} forward and backward passes each through {attacker.loaded.name}"
            print(f"{name}: {n_all} images, {passes}", flush=True)
        small = attacker.loaded.model.num_parameters() < SMALL
        n = self.batch_size if small else max(1, self.batch_size // MEMORY_SHARE)
        started = time.monotonic()
        log = self.folder / "pictures" / f"{LOG}.part{engine.rank}.jsonl"
        hidden = None if first and attack.name != CONTROL else True  # None: shown on a terminal alone
        with tqdm(total=len(samples), desc=name, unit="image", disable=hidden) as bar:
            for batch in _batches(samples, n):
                began = time.monotonic()
                aims, kept = [], []
                for sample in batch:
                    ask = self.asks[sample.id]
                    target = target_of(ask.question, lower=attack.name == "cw")
                    try:
                        image = open_image(sample.facts["source"])
                    except ImageError:
                        continue
                    if target is not None:
                        aims.append(Aim(image, sample.question, target, f"{ask.question.file}#{ask.question.index}"))
                        kept.append(sample)
                made = attacker.attack(attack, aims, self.options.seed) if aims else []
                seconds = (time.monotonic() - began) / max(1, len(made))
                for sample, aim, one in zip(kept, aims, made, strict=True):
                    path = Path(sample.images[0])
                    save(Image.fromarray(one.pixels_HWC), path, lambda p, aim=aim: check_saved(p, aim.image, attack.epsilon_px))
                    result = {k: v for k, v in dataclasses.asdict(one).items() if k != "pixels_HWC"}
                    row = {"id": sample.id, "part": part, "setting": setting, **result, "seconds": seconds}
                    with log.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(row) + "\n")
                bar.update(len(batch))
        if first and attack.name != CONTROL:
            print(f"{name}: took {time.monotonic() - started:.1f} s on {attacker.loaded.device}", flush=True)

    def _named(self, setting: str) -> Attack:
        """The attack, or the control, that a setting names."""
        attacks = [*self.options.attacks, *(one.control for one in self.options.attacks)]
        name = setting.rpartition("/")[2] if setting.startswith("transfer:") else setting
        return next(attack for attack in attacks if attack is not None and attack.setting == name)

    def summary(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """By part and setting, over the samples `ids`: number of images, largest change and mean distance in grey levels, share
        of right answers with the highest logit for the clean, the unrounded and the saved image, seconds per image."""
        rows: dict[str, dict[str, Any]] = {}
        for path in sorted((self.folder / "pictures").glob(f"{LOG}.part*.jsonl")):
            for line in path.read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                rows[row["id"]] = row
        groups: dict[str, list[dict[str, Any]]] = {}
        for key in ids:
            if key in rows:
                groups.setdefault(f"{rows[key]['part']}:{rows[key]['setting']}", []).append(rows[key])
        found = {}
        for name, some in groups.items():
            shares = {}
            for key in ("right_clean", "right_unrounded", "right_saved", "loss_before", "loss_after"):
                values = [row[key] for row in some if row[key] is not None]
                shares[key] = round(float(np.mean(values)), 4) if values else None
            found[name] = {
                "n": len(some),
                "largest_change_px": max(row["linf_px"] for row in some),
                "mean_l2_px": round(float(np.mean([row["l2_px"] for row in some])), 1),
                **shares,
                "seconds_a_picture": round(float(np.mean([row["seconds"] for row in some])), 4),
            }
        return found

    def substitutes(self, parts: Sequence[Part]) -> list[str]:
        """Names of our replacements for images that were not released."""
        names = [part.name for part in parts]
        found = [f"transfer:{self.options.surrogate}"] if "black_box_attack" in names else []
        return found + (list(self.options.corruptions) if "robustness_noise" in names else [])


def save(image: Image.Image, path: Path, check: Any = None) -> None:
    """Write a PNG beside `path`, check it with `check(path)`, and move it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.png")
    image.save(partial, format="PNG")
    if check is not None:
        check(str(partial))
    partial.replace(path)


def _batches(samples: Sequence[Sample], n: int) -> Iterator[Sequence[Sample]]:
    for start in range(0, len(samples), n):
        yield samples[start : start + n]
