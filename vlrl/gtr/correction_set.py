"""The set of corrected thoughts that imitation draws from: aggregated over training, drawn uniformly, saved and restored.

Every step gives a record, corrected or not; the share of records with a target is what keeps imitation in proportion
(`gate="share"`). Images lie once each in a folder of their own, by content, and are not kept in memory.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vlrl.data.images import open_image

GATES = ("share", "always")
AGGREGATES = ("all", "fresh")
RECORDS, STATE = "records.jsonl", "state.json"


@dataclass(frozen=True, slots=True)
class Record:
    """One step or completion: its own prompt and image, and the corrected completion (None: nothing to imitate).

    `prompt` is the text or the messages as the trainer keeps them; `thought_span`: characters of `target` that may be
    imitated, for readers of the file (training masks the actual ids). `image_sha256`s name files of the image folder.
    """

    id: str
    task: str
    prompt: Any
    status: str
    target: str | None = None
    thought_span: tuple[int, int] | None = None
    image_sha256s: tuple[str, ...] = ()
    deal_seed: int | None = None
    episode: int | None = None
    t: int | None = None
    update: int = 0
    corrector: str = ""
    prompt_version: str = ""
    privileged: bool = False

    def __post_init__(self) -> None:
        if (self.target is not None) != (self.status == "corrected"):
            raise ValueError(f"record {self.id}: status {self.status!r} with target {self.target!r:.60}")


class CorrectionSet:
    """`cap=None`: nothing is ever thrown away. With a cap, a reservoir: each record of all ever added is kept with equal
    probability. `gate`: "share" draws among all records (a draw may be empty), "always" among those with a target.
    `aggregate`: "all", or "fresh" for the latest update's records alone (an ablation)."""

    def __init__(
        self,
        images: Path,
        *,
        seed: int = 0,
        cap: int | None = None,
        gate: str = "share",
        aggregate: str = "all",
    ) -> None:
        if gate not in GATES or aggregate not in AGGREGATES or (cap is not None and cap < 1):
            raise ValueError(f"gate={gate!r}, aggregate={aggregate!r}, cap={cap}; give {GATES}, {AGGREGATES}, a positive cap")
        self.images, self.cap, self.gate, self.aggregate = images, cap, gate, aggregate
        self.records: list[Record] = []
        self.n_added = 0
        self._rng = np.random.default_rng([seed, 2503])
        self._queue: list[int] = []
        images.mkdir(parents=True, exist_ok=True)

    def __len__(self) -> int:
        return len(self.records)

    @property
    def corrected_share(self) -> float:
        """Records with a target per record; 0 for none."""
        return sum(record.target is not None for record in self.records) / len(self.records) if self.records else 0.0

    def add(self, record: Record, images: Iterable[Image.Image] = ()) -> Record:
        """Adds one record with its images; returns it as stored."""
        stored = replace(record, image_sha256s=(*record.image_sha256s, *(self._keep(image) for image in images)))
        self.n_added += 1
        if self.cap is None or len(self.records) < self.cap:
            self.records.append(stored)
        else:
            place = int(self._rng.integers(self.n_added))
            if place < self.cap:
                self.records[place] = stored
        return stored

    def _keep(self, image: Image.Image) -> str:
        pixels = image.convert("RGB")
        name = hashlib.sha256(str(pixels.size).encode() + pixels.tobytes()).hexdigest()
        path = self.images / f"{name}.png"
        if not path.exists():
            partial = path.with_suffix(f".{os.getpid()}")
            pixels.save(partial, format="PNG")
            os.replace(partial, path)
        return name

    def open_images(self, record: Record) -> list[Image.Image]:
        """The record's images as they were. Raises ImageError."""
        opened = []
        for name in record.image_sha256s:
            opened.append(open_image(str(self.images / f"{name}.png")))
        return opened

    def new_epoch(self) -> None:
        """The next draw starts a fresh permutation of everything stored by then."""
        self._queue = []

    def draw(self, n: int) -> list[Record]:
        """`n` records: uniform, without replacement until all were drawn, then again. Empty while there is nothing to draw."""
        drawn: list[Record] = []
        while len(drawn) < n:
            if not self._queue:
                self._queue = [int(i) for i in self._rng.permutation(self._eligible())]
                if not self._queue:
                    return []
            drawn.append(self.records[self._queue.pop()])
        return drawn

    def _eligible(self) -> list[int]:
        latest = max((record.update for record in self.records), default=0)
        return [
            i
            for i, record in enumerate(self.records)
            if (self.gate == "share" or record.target is not None) and (self.aggregate == "all" or record.update == latest)
        ]

    # ---- on disk

    def save(self, folder: Path) -> None:
        """Records and the state of the draws into `folder`, each file whole or not at all. Images are not copied."""
        folder.mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps(asdict(record), ensure_ascii=False) + "\n" for record in self.records)
        state = {
            "n_added": self.n_added,
            "n_records": len(self.records),
            "cap": self.cap,
            "queue": self._queue,
            "rng": self._rng.bit_generator.state,
        }
        for name, text in ((RECORDS, lines), (STATE, json.dumps(state))):
            partial = folder / f"{name}.partial"
            partial.write_text(text, encoding="utf-8", errors="surrogatepass")
            os.replace(partial, folder / name)

    def restore(self, folder: Path) -> None:
        """What `save` wrote, so that all further adds and draws are those of the run that wrote it. Raises ValueError for
        files that do not fit together or another cap, FileNotFoundError where there are none."""
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        text = (folder / RECORDS).read_text(encoding="utf-8", errors="surrogatepass")
        records = [_record(json.loads(line)) for line in text.split("\n") if line]
        if len(records) != state["n_records"]:
            raise ValueError(
                f"{folder}: {len(records)} records, but {STATE} counts {state['n_records']}; use another checkpoint"
            )
        if self.cap != state["cap"]:
            raise ValueError(f"{folder} was saved with cap={state['cap']}, this run has cap={self.cap}; use the same")
        missing = {name for record in records for name in record.image_sha256s if not (self.images / f"{name}.png").is_file()}
        if missing:
            raise ValueError(f"{folder}: {len(missing)} of its images are not in {self.images}; keep that folder with the run")
        self.records, self.n_added, self._queue = records, state["n_added"], state["queue"]
        self._rng.bit_generator.state = state["rng"]


def _record(row: dict[str, Any]) -> Record:
    span = row["thought_span"]
    names = tuple(row["image_sha256s"])
    return Record(**{**row, "thought_span": None if span is None else tuple(span), "image_sha256s": names})
