"""All letters and all choices alike: forms of an answer that earn the same for every choice, in every order and many languages."""

import itertools
import random
import re
import string
import time

import pytest

from vlrl.answers.choices import choice_letter
from vlrl.answers.plans import PATHS, SPEEDS, plan_words
from vlrl.answers.text import LETTERS, short_forms
from vlrl.answers.yes_no import yes_or_no
from vlrl.rewards.text import mcq
from vlrl.schema import Sample

SETS = [
    ("red", "green", "blue", "black"),
    ("Yes", "No"),
    ("No", "Yes", "Not sure"),
    ("the Dominican Republic", "Grenada", "Dominica", "Haiti"),
    ("30", "15", "3", "315"),
    ("2.5", "25", "-25", "0.25"),
    ("红色", "绿色", "蓝色"),
    ("vitamin A", "vitamin B", "vitamin C", "vitamin D"),
    ("The man is walking.", "The man is sitting.", "A woman is cooking."),
    ("a red car", "a green car", "a car"),
    ("Type B", "Type A", "Type O", "Type AB"),
    ("Both A and B", "Neither A nor B", "Only A", "Only B"),
    ("none of the above", "not visible", "all of the above"),
    tuple(f"number {i}" for i in range(10)),
    tuple(f"it has {word} legs" for word in ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]),
]
RIGHT = """{L}|{L}.|({L})|[{L}]|**{L}**|{L})|{L}:|"{L}"|{l}|({l})|{L}。|（{L}）|【{L}】|{L} {T}|{L} - {T}|{L}. {T}|{L}: {T}|{L}) {T}|({L}) {T}
{L}, {T}|{L}.{T}|**{L}.** {T}|{L}、{T}|{L}：{T}|{T}|{T}.|{T}。|"{T}"|**{T}**|{T} ({L})|The answer is {L}|The answer is {L}.|The answer is ({L}).
The answer is {T}.|The answer is {L}. {T}|The answer is {L} because I looked.|Answer: {L}|Answer: {T}|Option {L}|Option {L}: {T}|I choose {L}.
{L} is correct.|{L} is right, I think|The correct option is {L}) {T}.|\\boxed{{{L}}}|\\boxed{{{T}}}|\\boxed{{\\text{{{L}}}}}|$\\boxed{{{L}}}$
答案是{L}|答案：{L}|选{L}|选项{L}：{T}|正确答案为{L}。|故选{L}。|{L}是正确的|答えは{L}です|{L}です。|정답은 {L}입니다|{L}가 정답입니다|Die Antwort ist {L}.
{L} ist richtig|La respuesta es {L}.|La réponse est {L}.|الإجابة هي {L}|Ответ: {L}|not {M} but {L}|{M} is wrong, so the answer is {L}|{L}, not {M}
{M}? No, {L}|The answer is {M}. Wait, the answer is {L}.|答案是{M}，更正：答案是{L}|不是{M}，而是{L}|\\boxed{{{M}}} No: \\boxed{{{L}}}|{L}, {L} and again {L}
\\boxed{{{L}}} \\boxed{{{L}}}""".replace("\n", "|").split("|")
RIGHT[-1] = "We looked at {U} and more.\n\n{L}"
WRONG = """{M}|{M}.|{M} {U}|{U}|{L} {U}|{L}. {U}|{L}) {U}|{L} - {U}|{L}: {U}|({L}) {U}|Option {L}: {U}|The answer is {L}. {U}|{U} ({L})|\\boxed{{{L}. {U}}}
{L} or {M}|{M} or {L}|{L}, {M}|{M}/{L}|{L} and {M}|{T} or {U}|{U}, {T}|{T}/{U}|either {L} or {M}|The answer is {L} or {M}|The answer is {T} or {U}
\\boxed{{{L}}} \\boxed{{{M}}}|\\boxed{{{L}}} the answer is {M}|The answer is {L}. The answer is {M}.|not {L}|not {T}|It is not {L}.|It isn't {T}|anything but {L}
neither {L}|neither {L} nor {M}|{L} is wrong|{L}) is wrong|{L}? No.|{L} is not correct|The answer is never {L}|I don't think it is {L}|all except {L}|I rule out {L}
不是{L}|并非{L}|{L}不对|除了{L}|{L}或{M}|{L}和{M}|{L}ではない|{L}가 아닙니다|{L} ist falsch|nicht {L}|no es {L}|ce n'est pas {L}|ليس {L}
The answer is {L}. Wait, the answer is {M}.|{L}. No, {M}.|{L}. Actually, {M}.|{L}... wait, no""".replace("\n", "|").split("|")


def filled(form, choices, at, other):
    return form.format(L=LETTERS[at], l=LETTERS[at].lower(), T=choices[at], M=LETTERS[other], U=choices[other])


@pytest.mark.parametrize("form", [*RIGHT, *WRONG])
def test_every_letter_and_choice_earns_the_same(form):
    wanted = float(form in RIGHT)
    for choices in SETS:
        if "No" in choices and re.search("(?i)no[ :.,]|no$", form):
            continue  # "B? No." means two things where B is "No"
        for at, other in itertools.permutations(range(len(choices)), 2):
            if len(choices) > 4 and other != (at + 1) % len(choices):
                continue
            text = filled(form, choices, at, other)
            for answer in (LETTERS[at], choices[at]):
                score = mcq(f"<answer>{text}</answer>", Sample("q", "qa", "which", answer, choices=choices))
                assert score.value == wanted, (text, choices, LETTERS[at], score)


def test_the_order_of_the_choices_changes_nothing():
    choices = ("red", "green", "blue", "black")
    for form in [*RIGHT, *WRONG]:
        found = set()
        for order in itertools.permutations(range(4)):
            shown = tuple(choices[i] for i in order)
            at, other = order.index(1), order.index(2)
            found.add(mcq(filled(form, shown, at, other), Sample("q", "qa", "which", "green", choices=shown)).value)
        assert len(found) == 1, form


@pytest.mark.parametrize(
    "article", ["A lovely dog", "A butterfly", "A can of soda", "A most beautiful day", "I think so", "I do not know", "A", "I"]
)
def test_words_are_no_letters(article):
    found = choice_letter(article, tuple(f"choice {i}" for i in range(10)))[0]
    assert found == (article if len(article) == 1 else None)


PIECES = re.findall(
    "[^|]+",
    "A|B|C|(B)|b|green|red|not |is |wrong|the answer is |or |, |. |\n|\\boxed{|}|选|不是|。|No: |wait |答案|Ｂ|\u200b|I |a |yes|no|？|KEEP|STOP"
    '|LEFT_TURN|speed: |{|"',
)
CHARACTERS = [
    chr(code)
    for low, high in ((9, 127), (0xA0, 0x600), (0x900, 0x980), (0x2000, 0x2300), (0x3000, 0x3100))
    for code in range(low, high)
]


def random_texts(max_pieces, seed, n=2000):
    """Texts of pieces of answers, with a few that hold any character. A plain generator: 2,000 of them cost a second."""
    rng = random.Random(seed)
    for i in range(n):
        pieces = rng.choices(PIECES, k=rng.randrange(max_pieces + 1))
        if i % 4 == 0:
            pieces.insert(rng.randrange(len(pieces) + 1), "".join(rng.choices(CHARACTERS, k=rng.randrange(12))))
        yield "".join(pieces)


def test_nothing_raises_and_a_reason_is_given():
    for text in random_texts(10, 1):
        for choices in (("red", "green", "blue"), None):
            letter, why = choice_letter(text, choices)
            assert (letter is None) == (why != "")
            assert letter is None or letter in (LETTERS[:3] if choices else LETTERS)
        word, why = yes_or_no(text)
        assert (word is None) == (why != "")
        plan = plan_words(text)
        assert plan.speeds <= set(SPEEDS)
        assert plan.paths <= set(PATHS)


def test_a_denial_or_a_second_choice_in_front_never_makes_an_answer():
    """What is read of a text stays or is lost where a denial of it, or another choice beside it, is added."""
    for text in random_texts(8, 2):
        choices = ("red", "green", "blue")
        letter, _ = choice_letter(f"The answer is B or C. {text}", choices)
        assert letter != "B" or re.search(r"[bB]|green|Ｂ", text)
        if text.count("\n") == 0 and (letter := choice_letter(text, choices)[0]):
            other = "A" if letter != "A" else "B"
            assert choice_letter(f"\\boxed{{{other}}}\n{text}", choices)[0] in (None, other) or re.search(
                r"(?i)\bno\b|wait|不是|boxed", text
            )


@pytest.mark.parametrize(
    "unit",
    [
        "A ",
        "b ",
        "，",
        "{",
        "[",
        "是",
        "wait ",
        "No: ",
        "not ",
        "the answer is ",
        "\\boxed{",
        "\\boxed{A} ",
        "no, ",
        "yes ",
        "A\n",
        "- ",
        " .",
        "red ",
        "KEEP, ",
        "speed ",
        "__ ",
        "<answer>",
    ],
)
@pytest.mark.parametrize("size", [19_000, 99_000, 1_000_000])
def test_work_is_linear_and_bounded(unit, size):
    text = unit * (size // len(unit))
    for read in (lambda: choice_letter(text, ("red", "green")), lambda: yes_or_no(text), lambda: plan_words(text)):
        start = time.process_time()
        read()
        assert time.process_time() - start < 0.5


@pytest.mark.parametrize("character", [*string.punctuation, *"。，、「（！～·¿；»«—…​́ａ½", "\n", "\t"])
def test_runs_of_any_character_and_pair_are_read_in_linear_time(character):
    readers = (lambda text: choice_letter(text, ("a, b", "$1$", "green")), yes_or_no, plan_words, short_forms)
    for unit in (character, f"{character}a", f"{character},", f" {character}"):
        text = unit * (4_000 // len(unit))
        for read in readers:
            start = time.process_time()
            read(text)
            assert time.process_time() - start < 0.4, unit
