"""Weights that one program writes and another reads, through a folder that both see: training, and a server that samples.

A version of the weights is a folder of its own. It is written aside and moved into place once it is whole and on the disk, so
that a reader finds all of it or nothing, whatever becomes of the writer. Its `weights.json` names each file with its size and a
checksum of its ends (a shared disk may show an older or a shorter file for a while), and counts the weights.

Not here: when weights are written (`vlrl.training.grpo.served_generation`), and who reads them (`vlrl.models.vllm_worker`).
"""

from __future__ import annotations

import json
import os
import shutil
import time
import zlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

LISTING = "weights.json"
FILE_BYTES = 2**30
"""About how large a file grows: so much is held in memory beside the model while weights are written."""
END_BYTES = 2**20
WHOLE_WITHIN_S = 30.0
"""How long a version may take to be seen by another machine: shared disks remember what was not there."""
VERSION, PARTIAL = "step-", ".partial-"
"""How the names of versions begin, and of those that are being written."""


class WeightFilesError(ValueError):
    """A version that is missing, cut short or changed; the message says which file."""


@dataclass(frozen=True)
class WeightFile:
    """A safetensors file of a version: its size, and the CRC-32 of its first and last MiB."""

    name: str
    n_bytes: int
    ends: int


@dataclass(frozen=True)
class WeightListing:
    """What a version holds."""

    version: str
    n_weights: int
    files: tuple[WeightFile, ...]


def version_name(step: int, run: str) -> str:
    """The folder of the weights that a run has after `step` updates. `run`: letters and digits, another one each start."""
    return f"{VERSION}{step:06d}-{run}"


def write_weights(
    folder: Path, version: str, weights: Iterable[tuple[str, torch.Tensor]], dtype: torch.dtype | None = None
) -> Path:
    """Write a version below `folder`; returns its place. `dtype`: of floating-point weights where theirs is wider.

    All of `weights` is gone through, after an error too: every process that gathers them must. Raises OSError and
    SafetensorError, of a full disk too, and leaves nothing then.
    """
    aside, place = folder / f"{PARTIAL}{version}", folder / version
    rest = iter(weights)
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        files, n_weights = _write_files(aside, rest, dtype)
        listing = WeightListing(version, n_weights, tuple(files))
        with (aside / LISTING).open("w", encoding="utf-8") as file:
            json.dump(asdict(listing), file)
            file.flush()
            os.fsync(file.fileno())
        shutil.rmtree(place, ignore_errors=True)
        aside.rename(place)
        _sync_folder(folder)
    except Exception:
        for _ in rest:
            pass
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return place


def _write_files(
    aside: Path, weights: Iterator[tuple[str, torch.Tensor]], dtype: torch.dtype | None
) -> tuple[list[WeightFile], int]:
    """The files of a version, and how many weights they hold."""
    held: dict[str, torch.Tensor] = {}
    files: list[WeightFile] = []
    n_bytes = n_weights = 0
    for name, weight in weights:
        narrower = dtype is not None and weight.is_floating_point() and weight.element_size() > dtype.itemsize
        # A copy in any case: adapters are taken out of a weight again, and gathered ones are freed, before it is written.
        own = weight.detach().to("cpu", dtype if narrower else weight.dtype, copy=True).contiguous()
        if held and n_bytes + own.nbytes > FILE_BYTES:
            files.append(_write_file(aside / f"{len(files):05d}.safetensors", held))
            held, n_bytes = {}, 0
        held[name] = own
        n_bytes, n_weights = n_bytes + own.nbytes, n_weights + 1
    if held:
        files.append(_write_file(aside / f"{len(files):05d}.safetensors", held))
    return files, n_weights


def _write_file(path: Path, weights: dict[str, torch.Tensor]) -> WeightFile:
    save_file(weights, path)
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return WeightFile(path.name, path.stat().st_size, _ends(path))


def _ends(path: Path) -> int:
    size = path.stat().st_size
    with path.open("rb") as file:
        found = zlib.crc32(file.read(END_BYTES))
        file.seek(max(0, size - END_BYTES))
        return zlib.crc32(file.read(END_BYTES), found)


def _sync_folder(folder: Path) -> None:
    """Let a name that was moved survive a loss of power, where the file system can."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError:
        pass
    finally:
        os.close(fd)


def read_listing(place: Path, wait_s: float = WHOLE_WITHIN_S) -> WeightListing:
    """What a version holds, once all of its files are seen whole. Raises WeightFilesError after `wait_s`."""
    until = time.monotonic() + wait_s
    while True:
        try:
            listing = _listing(place)
            for file in listing.files:
                _check_file(place / file.name, file)
            return listing
        except (OSError, WeightFilesError) as error:
            if time.monotonic() >= until:
                raise WeightFilesError(str(error)) from error
        time.sleep(0.1)


def _listing(place: Path) -> WeightListing:
    try:
        found: Any = json.loads((place / LISTING).read_text(encoding="utf-8"))
        files = tuple(WeightFile(**one) for one in found["files"])
        listing = WeightListing(str(found["version"]), int(found["n_weights"]), files)
    except (ValueError, TypeError, LookupError) as error:
        raise WeightFilesError(f"{place / LISTING} is damaged: {error}") from error
    if listing.version != place.name:
        raise WeightFilesError(f"{place} holds the version {listing.version}")
    return listing


def _check_file(path: Path, file: WeightFile) -> None:
    n_bytes = path.stat().st_size
    if n_bytes != file.n_bytes:
        raise WeightFilesError(f"{path} has {n_bytes:,} bytes, {file.n_bytes:,} were written")
    if _ends(path) != file.ends:
        raise WeightFilesError(f"{path} was changed after it was written")


def read_weights(place: Path, listing: WeightListing) -> Iterator[tuple[str, torch.Tensor]]:
    """Each weight of a version. Raises WeightFilesError for a file that cannot be read, or where some are missing."""
    n_weights = 0
    for file in listing.files:
        try:
            with safe_open(place / file.name, framework="pt") as weights:
                for name in weights.keys():  # noqa: SIM118 (no mapping)
                    yield name, weights.get_tensor(name)
                    n_weights += 1
        except (OSError, SafetensorError) as error:
            raise WeightFilesError(f"{place / file.name}: {error}") from error
    if n_weights != listing.n_weights:
        raise WeightFilesError(f"{place} holds {n_weights} weights, {listing.n_weights} were written")


def remove_weights(folder: Path, keep: Collection[str] = ()) -> None:
    """Remove what was written here, but for the versions to keep; other files stay."""
    for path in folder.glob("*"):
        if path.name.startswith((VERSION, PARTIAL)) and path.name not in keep and path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
