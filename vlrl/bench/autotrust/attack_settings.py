"""The settings of attacks on an image: names, published defaults, strengths, and the answer an attack aims at. No torch.

Strengths are in grey levels of the raw 8-bit image (0..255). Source: AutoTrust (arXiv 2412.15206), its released attack program.
Not here: the attacks themselves (`vlrl.bench.autotrust.attacks`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vlrl.bench.autotrust.fixed import OPTION_LETTERS, true_letter, true_yes_no
from vlrl.bench.autotrust.questions import MULTI, YES_NO, Question

CONTROL = "random"
"""Random noise that moves every value by the whole strength, up or down: the baseline of an attack of that strength."""
ATTACK_DEFAULTS: Mapping[str, tuple[float | None, float | None, int]] = {
    "pgd": (16.0, 2.0, 10),
    "bim": (8.0, 0.8, 10),
    "cw": (None, None, 100),
    CONTROL: (16.0, None, 0),
}
"""Attack -> (strength and step in grey levels, number of steps). C&W has no bound; its step is Adam's (0.01 in tanh space)."""
ATTACK_NAMES = ("pgd", "bim", "cw")


@dataclass(frozen=True)
class Attack:
    """`epsilon_px`: the most that any value of the image may move, in grey levels; None without a bound. `bce`: binary
    cross-entropy on the answer tokens instead of cross-entropy."""

    name: str
    epsilon_px: float | None
    alpha_px: float | None
    n_steps: int
    bce: bool = False

    @property
    def setting(self) -> str:
        """The full name in reports: `pgd-eps16-alpha2-steps10`."""
        parts = [self.name]
        parts += [] if self.epsilon_px is None else [f"eps{self.epsilon_px:g}"]
        parts += [] if self.alpha_px is None else [f"alpha{self.alpha_px:g}"]
        parts += [f"steps{self.n_steps}"] if self.name != CONTROL else []
        return "-".join(parts + (["bce"] if self.bce else []))

    @property
    def control(self) -> Attack | None:
        """Random noise of the same strength; None for an attack without a bound."""
        return None if self.epsilon_px is None else Attack(CONTROL, self.epsilon_px, None, 0)


def read_attacks(text: str, options: Mapping[str, tuple[str, ...]]) -> tuple[Attack, ...]:
    """The attacks of `--attack pgd+bim`. `options`: `epsilon`, `alpha`, `num_iter` and `bce` of the part, which hold for all of
    them. BIM's step is a tenth of its strength unless `alpha` is given. Raises ValueError."""
    names = text.replace(",", "+").split("+")
    unknown = [name for name in names if name not in ATTACK_NAMES]
    if unknown:
        raise ValueError(f"--attack {text}: unknown attack {unknown[0]!r} (known: {', '.join(ATTACK_NAMES)})")
    epsilon, alpha = _number(options, "epsilon"), _number(options, "alpha")
    n_steps, bce = _number(options, "num_iter"), _number(options, "bce")
    if "cw" in names and (epsilon is not None or alpha is not None):
        raise ValueError("--attack cw has no bound and no step in grey levels: leave epsilon and alpha out, or cw")
    if epsilon is not None and not 0 <= epsilon <= 255:
        raise ValueError(f"epsilon={epsilon:g} is not within 0..255 grey levels (the released 16/255 is epsilon=16)")
    if alpha is not None and alpha <= 0:
        raise ValueError(f"alpha={alpha:g} moves nothing; the published step is 2 grey levels")
    if n_steps is not None and (n_steps != int(n_steps) or n_steps < 0):
        raise ValueError(f"num_iter={n_steps:g} is not a number of steps")
    found = []
    for name in dict.fromkeys(names):
        own_epsilon, own_alpha, own_steps = ATTACK_DEFAULTS[name]
        strength = own_epsilon if epsilon is None else epsilon
        step = own_alpha if strength == own_epsilon or name != "bim" or strength is None else strength / 10
        steps = own_steps if n_steps is None else int(n_steps)
        found.append(Attack(name, strength, step if alpha is None else alpha, steps, bool(bce)))
    return tuple(found)


def _number(options: Mapping[str, tuple[str, ...]], key: str) -> float | None:
    values = options.get(key)
    if values is None:
        return None
    try:
        (value,) = values
        return float(value)
    except ValueError as error:
        raise ValueError(f"{key}={'+'.join(values)}: one number is needed") from error


@dataclass(frozen=True)
class Target:
    """The answers that an attack tells apart: one word for each, and `right`, the index of the right one."""

    words: tuple[str, ...]
    right: int
    positive: tuple[str, ...] = ()
    """For `bce` on yes or no: the spellings of the right answer; `negative` holds those of the other."""
    negative: tuple[str, ...] = ()


def target_of(question: Question, lower: bool = False) -> Target | None:
    """The target of a closed question, None where no right answer is known. Yes and no have the case of the right answer
    (`lower`: lower case, which C&W uses)."""
    truth: Any = question.row.get("answer")
    if question.kind == MULTI:
        letter = true_letter(truth)
        return None if letter is None else Target(tuple(OPTION_LETTERS), OPTION_LETTERS.index(letter))
    answer = true_yes_no(truth) if question.kind == YES_NO else None
    if answer is None:
        return None
    text = str(truth).strip(" .")
    spelt = str.upper if text.isupper() and len(text) > 1 else str.title if text[:1].isupper() else str.lower
    words = tuple((str.lower if lower else spelt)(word) for word in ("yes", "no"))
    yes, no = ("yes", "Yes"), ("no", "No")
    return Target(words, 0 if answer == "yes" else 1, *((yes, no) if answer == "yes" else (no, yes)))
