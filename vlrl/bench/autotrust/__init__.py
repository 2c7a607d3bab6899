"""AutoTrust: how trustworthy a vision-language model is that answers questions on driving (arXiv 2412.15206).

Reads the released question files, asks them, and scores answers twice: as the released program does (`reference`) and so that
the number means what it says (`fixed`, the headline). Pictures are the user's. Not here: who answers (`vlrl.bench`), attacks on
images, judging open-ended answers.
"""

from __future__ import annotations

from vlrl.bench.autotrust.parts import PARTS

__all__ = ["PARTS", "VERSION", "is_autotrust"]
VERSION = "1"
"""Raised when prompts, scorers or metrics change what a number means."""


def is_autotrust(task: str) -> bool:
    """Whether `--task` names the benchmark or a part of it (`autotrust/privacy:setting=fpp`)."""
    return task == "autotrust" or task.startswith("autotrust/")
