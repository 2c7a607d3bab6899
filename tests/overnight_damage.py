"""Part of `tests/overnight.py`: files of a model and of a checkpoint damaged at random; each time one line, or the whole thing.

A damage: a file cut at a random place, lost, emptied, with random bytes in its first or any place, or holding another file.
"""

import contextlib
import io
import json
import random
import shutil
import tempfile
import warnings
from pathlib import Path

import torch
from overnight import Row
from transformers.utils import logging

from vlrl.models.load import load_model, save_model
from vlrl.models.names import ModelError
from vlrl.training.whole_checkpoints import checkpoint_problem, newest_whole


def run(n, seed):
    warnings.filterwarnings("ignore")
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        tiny = load_model("tiny")
        save_model(tiny.model, tiny.processor, root / "model")
        whole_checkpoint(root / "model", root / "checkpoint")
        return [models(root, n, seed), checkpoints(root, n, seed)]


def whole_checkpoint(model, folder):
    shutil.copytree(model, folder)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": 4, "log_history": [{"step": 4}]}))
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({"state": torch.zeros(2000)}, folder / name)


def damaged(folder, rng):
    """Damage one file of a folder; what was done, in words."""
    path = rng.choice(sorted(path for path in folder.iterdir() if path.is_file()))
    data = bytearray(path.read_bytes())
    kind = rng.choice(["cut", "lost", "emptied", "start", "anywhere", "another"])
    if kind == "cut":
        data = data[: rng.randrange(len(data))]
    elif kind == "emptied":
        data = bytearray()
    elif kind in ("start", "anywhere"):
        end = min(len(data), 2000) if kind == "start" else len(data)
        at = rng.randrange(end)
        data[at : at + 16] = rng.randbytes(len(data[at : at + 16]))
    elif kind == "another":
        data = bytearray(rng.choice(sorted(other for other in folder.iterdir() if other.is_file())).read_bytes())
    path.unlink()
    if kind != "lost":
        path.write_bytes(data)
    return f"{path.name} {kind}"


def models(root, n, seed):
    """Loading a damaged model folder."""
    failed, loaded = [], 0
    for i in range(n):
        folder = shutil.copytree(root / "model", root / f"m{i}")
        what = damaged(folder, random.Random(f"{seed} model {i}"))
        told = io.StringIO()
        try:
            with contextlib.redirect_stderr(told), contextlib.redirect_stdout(told):
                load_model(str(folder))
            loaded += 1
        except ModelError as error:
            if "\n" in str(error) or len(str(error)) > 800 or str(folder) not in str(error):
                failed.append(f"{what}: {error}")
        except Exception as error:  # noqa: BLE001 (what this looks for)
            failed.append(f"{what}: {type(error).__name__}: {error}")
        shutil.rmtree(folder)
    return Row(
        "damaged model folders: one line", n, len(failed), "; ".join(failed[:3])[:300] or f"{loaded} loaded all the same"
    )


def checkpoints(root, n, seed):
    """Asking whether a damaged checkpoint is whole."""
    failed, passed = [], 0
    for i in range(n):
        run_folder = root / f"c{i}"
        folder = Path(shutil.copytree(root / "checkpoint", run_folder / "checkpoint-4"))
        what = damaged(folder, random.Random(f"{seed} checkpoint {i}"))
        try:
            problem = checkpoint_problem(folder)
            found = newest_whole(run_folder)
            passed += problem is None
            if (found.path is None) != (problem is not None) or "\n" in (problem or ""):
                failed.append(f"{what}: {problem}")
        except Exception as error:  # noqa: BLE001 (what this looks for)
            failed.append(f"{what}: {type(error).__name__}: {error}")
        shutil.rmtree(run_folder)
    return Row(
        "damaged checkpoints: one line", n, len(failed), "; ".join(failed[:3])[:300] or f"{passed} have damages within a file"
    )
