"""`predictions.jsonl`: completions logged as they are made, so that a killed run loses nothing and goes on by sample id.

One process appends to the file itself; of several, each appends to a part of its own, and the first one merges the parts. A
half-written last line is dropped and its sample answered again. Answers of an earlier run are kept only if that run had the
same settings (`run.json`).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any

from vlrl.data.files import append_whole, read_json_object, write_whole
from vlrl.schema import Prediction, SampleError
from vlrl.tasks.evaluate import write_json

PREDICTIONS_FILE, SETTINGS_FILE = "predictions.jsonl", "run.json"


def prediction_from_json(row: Any, where: str) -> Prediction:
    """Raises SampleError unless the object has an id and a completion; other keys may be missing."""
    if not isinstance(row, dict) or not isinstance(row.get("id"), str) or not isinstance(row.get("completion"), str):
        raise SampleError(f'{where}: a prediction is {{"id": text, "completion": text}}, got {str(row)[:80]}')
    n_tokens = row.get("n_tokens")
    truncated, meta = row.get("truncated", False), row.get("meta") or {}
    if not isinstance(meta, dict) or not isinstance(truncated, bool):
        raise SampleError(f"{where}: 'meta' must be an object and 'truncated' true or false")
    is_count = isinstance(n_tokens, int) and not isinstance(n_tokens, bool) and (n_tokens > 0 or not row["completion"])
    return Prediction(row["id"], row["completion"], n_tokens if is_count else None, truncated, meta)


def read_log(path: Path) -> list[Prediction]:
    """All whole lines of a log. Raises SampleError for an id used twice, and for a line that is not a prediction
    (the last line may be cut off)."""
    found: list[Prediction] = []
    line_of: dict[str, int] = {}
    raw = path.read_bytes()
    lines = raw.split(b"\n")
    for number, line in enumerate(lines, start=1):
        where = f"{path}:{number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                break
            raise SampleError(f"{where}: not a line of UTF-8 JSON: {error}") from error
        prediction = prediction_from_json(row, where)
        if prediction.id in line_of:
            raise SampleError(f"{where}: id {prediction.id!r} was used on line {line_of[prediction.id]}")
        line_of[prediction.id] = number
        found.append(prediction)
    return found


def to_line(prediction: Prediction) -> str:
    return json.dumps(dataclasses.asdict(prediction), ensure_ascii=True) + "\n"


class Log:
    """The log of a run in `folder`. `rank` of `world` processes; only rank 0 calls `settle`, `gather` and `sort`."""

    def __init__(self, folder: Path, rank: int = 0, world: int = 1) -> None:
        self.folder, self.rank, self.world = folder, rank, world
        self.path = folder / PREDICTIONS_FILE
        self._file: FileIO | None = None

    def settle(self, settings: Mapping[str, Any]) -> None:
        """Write what the answers depend on, or check that the folder's answers were made with the same. Raises SampleError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / SETTINGS_FILE
        if path.is_file():
            before = read_json_object(path)
            for key, value in settings.items():
                if before.get(key) != value:
                    raise SampleError(
                        f"{self.folder} holds answers made with {key}={before.get(key)!r}, this run has {value!r}:"
                        " answers of both cannot be mixed; name another --output_path or repeat the settings"
                    )
        elif self.path.is_file():
            raise SampleError(f"{self.path} exists without {SETTINGS_FILE}, its settings; name another --output_path")
        else:
            write_json(path, dict(settings))

    def gather(self) -> None:
        """Merge parts that processes left behind into the log, whole lines only."""
        parts = sorted(self.folder.glob("predictions.part*.jsonl"))
        if not parts and not self._is_torn():
            return
        kept = {p.id: p for path in [self.path, *parts] if path.is_file() for p in read_log(path)}
        if parts or self.path.is_file():
            self._replace(kept.values())
        for part in parts:
            part.unlink()

    def read(self) -> dict[str, Prediction]:
        return {p.id: p for p in read_log(self.path)} if self.path.is_file() else {}

    def __enter__(self) -> Log:
        part = self.path if self.world == 1 else self.folder / f"predictions.part{self.rank}.jsonl"
        self._file = part.open("ab", buffering=0)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def add(self, predictions: Iterable[Prediction]) -> None:
        """Append, and hand over to the operating system before returning. Raises OSError; a full disk leaves no half line."""
        if self._file is None:
            raise RuntimeError("a log takes predictions inside its `with` block only")
        append_whole(self._file, "".join(map(to_line, predictions)).encode())

    def sort(self, order: Sequence[str]) -> None:
        """Bring the log into the order of the samples; ids that are not in `order` (a larger --limit before) come last."""
        self.gather()
        place = {key: i for i, key in enumerate(order)}
        kept = list(self.read().values())
        ordered = sorted(kept, key=lambda p: place.get(p.id, len(place)))
        if ordered != kept:
            self._replace(ordered)

    def _is_torn(self) -> bool:
        """Whether the log ends in the middle of a line."""
        if not self.path.is_file() or not self.path.stat().st_size:
            return False
        with self.path.open("rb") as file:
            file.seek(-1, 2)
            return file.read() != b"\n"

    def _replace(self, predictions: Iterable[Prediction]) -> None:
        write_whole(self.path, "".join(map(to_line, predictions)))
