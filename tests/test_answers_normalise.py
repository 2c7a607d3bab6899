"""Text in any script in its ASCII form, and that no number changes on the way."""

import re
import time
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlrl.answers.normalise import normalised


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("plain text, as it is: x^2", "plain text, as it is: x^2"),
        ("A。", "A."),
        ("A、红色", "A, 红色"),
        ("（Ａ）", "(A)"),
        ("【B】「C」", '[B]"C"'),
        ("答案：42！", "答案:42!"),
        ("KEEP，LEFT_TURN", "KEEP,LEFT_TURN"),
        ("“yes” ‘no’", "\"yes\" 'no'"),
        ("B\u200b\u202e\ufeff", "B"),
        ("1\u00a0234\u202f5\u30006", "1 234 5 6"),
        ("−3, －3, –3, x=—3, ‑3", "-3, -3, -3, x=-3, -3"),
        ("40–42, 40 – 42", "40–42, 40 – 42"),
        ("A – red, B——绿色", "A - red, B-绿色"),
        ("５ ٣٫٥ ١٬٢٣٤ ۴۲ ४२ 𝟒𝟐", "5 3.5 1,234 42 42 42"),
        ("１，２３４ but 1，234", "1,234 but 1, 234"),
        ("3、400 3。5 3،5 3۔5", "3, 400 3. 5 3, 5 3. 5"),
        ("[10，20]", "[10, 20]"),
        ("x² 10³ ½ 1½ ① ⑴ ⒈5 ㎡ CO₂ ㍘", "x² 10³ ½ 1½ ① ⑴ ⒈5 ㎡ CO₂ ㍘"),
        ("50％ 50٪ 1⁄2", "50% 50% 1/2"),
        ("Ⓑ 𝐁 Ⅳ ㎏ ｶﾞ ﬁ", "B B IV kg ガ fi"),
        ("e\u0301", "é"),
        ("", ""),
    ],
)
def test_plain_forms(text, plain):
    assert normalised(text) == plain
    assert normalised(plain) == plain


def test_no_character_becomes_another_number():
    numeric = re.compile(r"[\d²³¹½⁄]")
    for character in map(chr, range(0x110000)):
        value = unicodedata.numeric(character, None)
        if value is None and not numeric.search(unicodedata.normalize("NFKC", character)):
            continue
        plain = normalised(character)
        if value is not None and plain != character and unicodedata.category(character) != "Nl":  # Roman numerals are letters
            assert unicodedata.numeric(plain) == value
        assert (unicodedata.decimal(character, None) is None) == (re.search("[0-9]", plain) is None)
        assert normalised(plain) == plain


DIGITS = ["0123456789", "０１２３４５６７８９", "٠١٢٣٤٥٦٧٨٩", "۰۱۲۳۴۵۶۷۸۹", "०१२३४५६७८९"]
POINTS = {0: ".", 1: "．", 2: "٫", 3: "٫", 4: "."}


@settings(max_examples=2000, deadline=None)
@given(st.integers(0, 10**9), st.integers(0, 999), st.integers(0, 4), st.sampled_from(["", "-", "−", "－", "–", "+", "＋"]))
def test_a_number_in_any_digits_has_its_worth(whole, decimals, script, sign):
    written = str(whole).translate(str.maketrans(DIGITS[0], DIGITS[script]))
    part = f"{decimals:03d}".translate(str.maketrans(DIGITS[0], DIGITS[script]))
    wanted = float(f"{'-' if sign in ('-', '−', '－', '–') else ''}{whole}.{decimals:03d}")
    assert float(normalised(f"{sign}{written}{POINTS[script]}{part}")) == wanted


NUMERIC = st.text(st.sampled_from("0123456789１２٣４½²³¹⁴₂①⒈⑴Ⅳ三.,．，、。٫٬،-−–— \u00a0\u200bx℃㎡％()（）=+×/⁄"), max_size=12)


def worths(text):
    """The runs of decimal digits of a text and the marks of a number between them."""
    visible = "".join(c for c in text if unicodedata.category(c) != "Cf")
    return [int(run) for run in re.findall(r"\d+", visible)]


@settings(max_examples=2000, deadline=None)
@given(st.one_of(NUMERIC, st.text()))
def test_the_numbers_of_any_text_stay(text):
    plain = normalised(text)
    assert worths(plain) == worths(text)
    assert normalised(plain) == plain
    assert sum(map(plain.count, "½²³①⒈")) == sum(map(text.count, "½²³①⒈"))
    joined = len(re.findall(r"[0-9][.,](?=[0-9])", plain))
    assert joined <= len(re.findall(r"\d[^\w\s、。]+(?=\d)", text)), "a list of numbers became one number"


@pytest.mark.parametrize(
    "text",
    [
        "\u0301" * 100_000,
        "a\u0301\u0316" * 33_000,
        "–" * 100_000,
        " –" * 50_000,
        "红色，" * 33_000,
        "ﷺ" * 100_000,
        "，3" * 50_000,
    ],
)
def test_it_is_linear(text):
    start = time.perf_counter()
    normalised(text)
    assert time.perf_counter() - start < 0.5
