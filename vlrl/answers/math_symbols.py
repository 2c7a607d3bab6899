"""The signs, commands, words and units of mathematical answers, and the one plain form in which a formula is read."""

from __future__ import annotations

import re
import unicodedata

from vlrl.answers.normalise import normalised

MAX_FORMULA_CHARS = 512


def words_of(text: str) -> frozenset[str]:
    """The words of a text, as a set."""
    return frozenset(text.split())


def _table(text: str) -> dict[str, str]:
    """Lines of "name: spelling spelling ..." -> {spelling: name}."""
    lines = [line.partition(":") for line in text.strip().splitlines()]
    return {spelling: name.strip() for name, _, spellings in lines for spelling in spellings.split()}


_SIGNS = _table(r"""
    \times: × ✕ ✖ ⨯
    \div: ÷
    \cdot: · ⋅ ∙
    *: ∗
    \neq: ≠
    \leq: ≤ ⩽ ≦
    \geq: ≥ ⩾ ≧
    \approx: ≈ ≃ ≅ ≒
    \pm: ±
    \mp: ∓
    \surd: √
    \surd[3]: ∛
    \infty: ∞
    \cup: ∪
    \cap: ∩
    \emptyset: ∅
    \in: ∈
    \notin: ∉
    \pi: π 𝜋
    \theta: θ
    \alpha: α
    \beta: β
    \gamma: γ
    \lambda: λ
    \phi: φ
    \omega: ω
    \Delta: Δ
    \sum: ∑
    \prod: ∏
    \int: ∫
    \mathbb{R}: ℝ
    \mathbb{Z}: ℤ
    ^\circ: ° º
    ': ′
    (: ⟨
    ): ⟩
""")
_SIGN_TABLE = {ord(sign): latex + (" " if latex[-1].isalpha() else "") for sign, latex in _SIGNS.items()}
_SIGN_TABLE |= {ord("。"): ". ", ord("\u2009"): r"\,", ord("\u202f"): r"\,"}
_RAISED, _LOWERED = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "₀₁₂₃₄₅₆₇₈₉₊₋"
_FIGURES = str.maketrans(_RAISED + _LOWERED, "0123456789+-n0123456789+-")
_RAISED_RUN, _LOWERED_RUN = re.compile(f"[{_RAISED}]+"), re.compile(f"[{_LOWERED}]+")
for _sign in "¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞↉":
    _upper, _, _lower = unicodedata.normalize("NFKC", _sign).partition("⁄")
    _SIGN_TABLE[ord(_sign)] = rf"\frac{{{_upper}}}{{{_lower}}}"

SAME_COMMANDS = _table(r"""
    frac: dfrac tfrac cfrac
    binom: tbinom dbinom
    leq: le leqslant
    geq: ge geqslant
    neq: ne
    <: lt
    >: gt
    {: lbrace
    }: rbrace
    [: lbrack
    ]: rbrack
    (: lparen langle
    ): rparen rangle
    |: vert lvert rvert mid
    *: ast
    cdot: cdotp centerdot bullet
    approx: simeq cong thickapprox
    emptyset: varnothing
    circ: degree
    infty: infin
""") | {"colon": ":"}
"""Commands that mean the same as another command or sign."""
IGNORED_COMMANDS = words_of("""
    left right bigl bigr Bigl Bigr biggl biggr Biggl Biggr big Big bigg Bigg mleft mright middle displaystyle textstyle
    scriptstyle quad qquad limits nolimits large Large small rm bf it cal thinspace enspace
""")
TEXT_COMMANDS = words_of("""
    text textbf textit textrm textsf texttt textnormal mbox mathrm mathbf mathit mathsf mathtt operatorname
""")
FUNCTIONS = words_of("""
    sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln lg exp det gcd lcm max min lim sum prod int iint oint
""")
WORD_COMMANDS = words_of("sqrt pi infty sin cos tan cot sec csc arcsin arccos arctan log ln exp theta alpha beta cup")
"""Commands that are also read where they are written as plain words."""
LETTER_COMMANDS = words_of("""
    alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau upsilon phi
    varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega ell
""")
SYMBOL_COMMANDS = LETTER_COMMANDS | words_of("""
    hbar infty emptyset imath partial nabla triangle angle perp parallel prime ldots dots cdots forall exists Re Im
""")
ACCENTS = words_of("""
    overline bar vec hat tilde widehat overrightarrow mathbb mathcal mathscr mathfrak boldsymbol bm underline
""")
RELATIONS = words_of("= < > neq leq geq approx in notin subset subseteq equiv sim to propto")
SET_OPERATORS = words_of("cup cap setminus")
PLAIN_WORDS = words_of("""
    not no non nor the is are was be for per any all of to at by if so we it but yes its as an on one two six ten our ans wrong
    false incorrect right correct true nope maybe perhaps only just about than then that this there here wait sure never none
""")
"""Short words that are neither a product of letters nor a unit."""

UNIT_NAMES = _table("""
    mm: mm millimeter millimetre millimètre milímetro
    cm: cm centimeter centimetre zentimeter centimètre centímetro
    dm: dm decimeter decimetre
    m: m meter metre mètre metro
    km: km kilometer kilometre kilomètre kilómetro quilômetro
    in: in inch inche inches
    ft: ft foot feet
    yd: yd yard
    mi: mi mile
    mg: mg milligram
    g: g gram gramme
    kg: kg kilogram
    t: t ton tonne
    lb: lb lbs pound
    oz: oz ounce
    ms: ms millisecond
    s: s sec second
    min: min minute
    h: h hr hour
    day: day d
    week: week
    month: month
    year: year yr
    ml: ml mL milliliter millilitre
    l: l L liter litre
    gal: gal gallon
    hz: hz Hz hertz
    khz: khz kHz
    mhz: mhz MHz
    n: N newton
    j: J joule
    kj: kJ kj
    w: W watt
    kw: kW kw
    kwh: kWh kwh
    v: V volt
    a: A amp ampere
    ohm: ohm Ω
    pa: Pa pa pascal
    kpa: kPa kpa
    atm: atm
    k: K kelvin
    mol: mol mole
    ev: eV ev
    cal: cal calorie
    kcal: kcal
    °: ° deg degree grad grado grau degré
    °c: °C °c celsius
    °f: °F °f fahrenheit
    rad: rad radian
    sr: sr
    mph: mph
    km/h: kmh kph kmph
    $: $ dollar usd USD US$
    €: € euro eur EUR
    £: £ gbp GBP
    ¥: ¥ yen yuan cny CNY rmb RMB jpy JPY
    ₹: ₹ rupee inr INR
    ₩: ₩ won
    cent: cent ¢
    unit: unit
    people: people person
    point: point pt
    %: % percent percentage pct
""")
"""Spelling -> unit. A plural s is dropped before."""
SINGLE_LETTER_UNITS = frozenset("mgshltNJWVAKLCΩ")
CURRENCIES = frozenset("$€£¥₹₩₽¢¤")
"""¤ stands for a dollar of another country than the United States, and for the real (R$)."""
_POWERS = {"square": "^2", "sq": "^2", "squared": "^2", "cubic": "^3", "cubed": "^3", "cu": "^3"}


def unit_of(words: str) -> str:
    """One spelling for each unit: "centimetres" -> "cm", "square meters" -> "m^2", "km per hour" -> "km/h". Other words without
    their plural s; "" for no unit."""
    words = words.replace(" per ", "/").replace(r"\cdot", " ").strip(" .")
    power, names = "", []
    for word in re.sub(r"\s*/\s*", "/", words).split():
        if word.casefold() in _POWERS:
            power = _POWERS[word.casefold()]
        else:
            names.append("/".join(_one_unit(part) for part in word.split("/")))
    return " ".join(names) + power


def _one_unit(word: str) -> str:
    name, raised, power = word.partition("^")
    name = name.strip("()")
    known = _known_unit(name)
    if known is None and re.fullmatch(r"[A-Za-zµ]{1,6}[0-9]", name):  # m2, cm3
        return f"{_one_unit(name[:-1])}^{name[-1]}"
    name = known or name.casefold()
    if known is None and len(name) > 3:
        name = name.removesuffix("s")
    return name + (raised + power.strip("{}") if raised else "")


def _known_unit(name: str) -> str | None:
    low = name.casefold()
    spellings = (name, low, low.removesuffix("s"), low.removesuffix("es"))
    return next((UNIT_NAMES[spelling] for spelling in spellings if spelling in UNIT_NAMES), None)


def is_unit(word: str) -> bool:
    """Whether a word is a unit of measure, of money or of time by itself."""
    names = [part.partition("^")[0] for part in word.split("/")]
    return all(
        _known_unit(name) is not None or name.casefold() in _POWERS or (name[-1:].isdigit() and name[:-1] in UNIT_NAMES)
        for name in names
    )


def plain_form(text: str) -> str:
    """A text with the signs of mathematics as LaTeX or ASCII: raised and lowered figures as powers and indices, written
    fractions as `\\frac`, Unicode operators as commands, the rest by `normalised`.

    The value of a number never changes. Linear in the text.
    """
    if text.isascii():
        return text
    text = _RAISED_RUN.sub(lambda found: f"^{{{found[0].translate(_FIGURES)}}}", text)
    text = _LOWERED_RUN.sub(lambda found: f"_{{{found[0].translate(_FIGURES)}}}", text)
    return normalised(text.translate(_SIGN_TABLE)).translate(_SIGN_TABLE)
