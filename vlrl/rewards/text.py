"""Rewards on short text answers: a choice, yes or no, equal strings, similar strings, equal mathematics."""

from __future__ import annotations

from vlrl.answers.choices import choice_letter
from vlrl.answers.phrases import denials
from vlrl.answers.span import canon
from vlrl.answers.text import LETTERS, bare_text, read_text, reference_letters, reference_texts, short_forms
from vlrl.answers.yes_no import reference_yes_no, yes_or_no
from vlrl.rewards.mathematics import equal_numbers, math_equal, math_problem
from vlrl.schema import Sample, Score

__all__ = ["exact_match", "fuzzy_match", "math_equal", "math_problem", "mcq", "mcq_problem", "yes_no", "yes_no_problem"]


def mcq_problem(sample: Sample) -> str | None:
    """Why `mcq` cannot grade a sample's answer, or None."""
    if len(sample.choices or ()) > len(LETTERS):
        return f"{len(sample.choices or ())} choices, but letters for {len(LETTERS)}"
    if len({canon(choice) for choice in sample.choices or ()}) != len(sample.choices or ()):
        return f"two choices are the same: {list(sample.choices or ())}"
    for answer in reference_texts(sample):
        letter = answer.strip().upper()
        texts = [canon(choice) for choice in sample.choices or ()]
        if len(letter) == 1 and letter in LETTERS[: len(texts) or None]:
            at = LETTERS.index(letter)
            if canon(answer) in texts and texts.index(canon(answer)) != at:
                return f"the answer {answer!r} is one choice's letter and another's text; give the letter's text or rename"
        elif canon(answer) not in texts:
            known = ", ".join(f"{LETTERS[i]}: {choice}" for i, choice in enumerate(sample.choices or ())) or "a letter A..Z"
            return f"the answer {answer!r} is not among the choices ({known})"
    return None


def yes_no_problem(sample: Sample) -> str | None:
    """Why `yes_no` cannot grade a sample's answer, or None."""
    if reference_yes_no(sample) is None:
        return f"a yes/no question's answer holds the word yes or the word no, got {sample.answer!r}"
    return None


def mcq(text: str, sample: Sample) -> Score:
    """1 if the answer chooses a right letter (or writes out its choice), else 0. Reader: `vlrl.answers.choices.choice_letter`.

    None where the sample's answer is no choice. Source: VLM-R1. differs: `(B)`, `**B**`, `\\boxed{B}`, "B is right", "答案是B"
    and the text of a choice are read; "A. or B.", "not B" and "B. <the text of another choice>" are no answer. differs from
    VLMEvalKit and MMMU: they take a letter or a choice from anywhere in prose, the last of several, and MMMU a random one where
    none is read. A metric may; a reward that pays for it teaches to name every choice.
    """
    right_letters = reference_letters(sample)
    if not right_letters:
        return Score(None, None, f"no choice: {sample.answer!r}")
    answer, why = read_text(text, sample)
    if answer is None:
        return Score(0.0, None, why)
    letter, why = choice_letter(answer, sample.choices)
    if letter is None:
        return Score(0.0, None, why)
    return Score(float(letter in right_letters), letter, f"chose {letter}, right: {', '.join(sorted(right_letters))}")


def yes_no(text: str, sample: Sample) -> Score:
    """1 if the answer asserts one of yes and no and it is the right one, else 0. Reader: `vlrl.answers.yes_no.yes_or_no`.

    None where the sample's answer is neither. Source: VLM-R1. differs: whole words ("I know" was a no), in any language;
    "not yes" and "yes, nope" are no answer; neither word on both sides scored 1.
    """
    right = reference_yes_no(sample)
    if right is None:
        return Score(None, None, yes_no_problem(sample) or "")
    answer, why = read_text(text, sample)
    if answer is None:
        return Score(0.0, None, why)
    word, why = yes_or_no(answer)
    return Score(float(word == right), word, why or f"the answer is {word}, right: {right}")


def exact_match(text: str, sample: Sample) -> Score:
    """1 if the answer equals a right one, by canonical equality, else 0.

    What is put around a short answer on either side does not count: a final full stop, quotes, emphasis, a box, "The answer is"
    (`vlrl.answers.text.bare_text`); nor do sentences or a heading before a last statement that is the answer
    (`vlrl.answers.text.short_forms`). Source: VLM-R1 (`all_match`). differs: runs of white space count as one space. differs
    from MMMU, which looks for the right answer inside the text ("not red" is red there), and from VQA's soft accuracy: each
    reference answer counts in full, articles and number words stay.
    """
    answer, why = read_text(text, sample)
    if answer is None:
        return Score(0.0, None, why)
    right = not short_forms(answer).isdisjoint({bare_text(reference) for reference in reference_texts(sample)})
    return Score(float(right), answer, "equal" if right else f"not {_shown(sample)}")


def fuzzy_match(text: str, sample: Sample, *, min_ratio: float = 0.0) -> Score:
    """Indel similarity to the nearest right answer, 2 * LCS(a, b) / (len a + len b) on bare texts
    (`vlrl.answers.text.bare_text`), in 0..1.

    For a plain number, 1 where the answer is that number (by the rules of `math_equal`), else 0. Below `min_ratio` the value
    is 0; at its default, unrelated words score above 0, a known weakness of this reward. Where one of the two holds a denial
    ("not", "不是") and the other none, 0. Source: VLM-R1's default. differs: no maths check first, which took "2024-01" for
    "2024-02".
    """
    answer, why = read_text(text, sample)
    if answer is None:
        return Score(0.0, None, why)
    ratio = max((_similarity(answer, reference) for reference in reference_texts(sample)), default=0.0)
    return Score(ratio if ratio >= min_ratio else 0.0, answer, f"similarity {ratio:.3f} to {_shown(sample)}")


def _shown(sample: Sample) -> str:
    return " or ".join(repr(reference) for reference in reference_texts(sample))[:120]


def _similarity(answer: str, reference: str) -> float:
    equal = equal_numbers(reference, answer)
    if equal is not None:
        return float(equal)
    a, b = bare_text(answer).removesuffix("."), bare_text(reference).removesuffix(".")
    if denials(a) != denials(b):
        return 0.0
    return 2 * longest_common_subsequence(a, b) / (len(a) + len(b)) if a and b else 0.0


def longest_common_subsequence(a: str, b: str) -> int:
    """Its length, by one word of bits a character of the longer text (Hyyrö 2004): linear in it for a short other one."""
    if len(a) < len(b):
        a, b = b, a
    places: dict[str, int] = {}
    for i, character in enumerate(b):
        places[character] = places.get(character, 0) | 1 << i
    full = (1 << len(b)) - 1
    row = full
    for character in a:
        matches = row & places.get(character, 0)
        row = ((row + matches) | (row - matches)) & full
    return len(b) - row.bit_count()
