"""Words beside a number that change what it is worth, in the languages in which models answer: magnitudes ("42 thousand",
4.2万), signs ("minus 3"), and what makes it no answer: a bound, a denial, "is wrong", an operation ("half of 42").

What is understood becomes figures (`in_figures`). A sentence that is not known to assert its number is unread: in English any
word may stand around it but those listed here; in other languages only known words may stand right before it ("es", "gibt",
"有"), because there a word that is not known may be a bound ("knapp 42", "не менее 42"). "About 42" is 42 in every language.
"""

from __future__ import annotations

import html
import re
import unicodedata

from vlrl.answers.math_symbols import words_of

_POWERS = {
    1: "十 십",
    2: "hundred hundreds hundert cien cento centos 百",
    3: "thousand thousands tausend tsd mille mila mil тысяча тысячи тысяч тыс ألف آلاف الف हजार हज़ार ribu nghìn bin 千 천",
    4: "万 萬 만",
    5: "lakh lakhs लाख",
    6: "million millions millionen mio mn mln millón millones milhão milhões milione milioni миллион миллиона миллионов млн"
    " مليون ملايين juta triệu milyon 百万 百萬 백만",
    7: "crore crores करोड़ 千万 千萬 천만",
    8: "亿 億 억",
    9: "billion billions bn milliard milliards milliarde milliarden mrd miliardi миллиард миллиарда миллиардов млрд مليار"
    " milyar miliar tỷ 十亿 十億 십억",
    12: "trillion trillions tn трлн триллион триллиона триллионов 万亿 萬億 조",
}
_SCALES = {word: power for power, words in _POWERS.items() for word in words.split()}
_WORD_SCALES = sorted((word for word in _SCALES if not "⺀" <= word[0] <= "힣"), key=len, reverse=True)
_SIGN_SCALES = sorted((word for word in _SCALES if "⺀" <= word[0] <= "힣"), key=len, reverse=True)
_SCALE = (
    rf"(?:(?:\s|\\[ ,]|~|-){{0,4}}(?:{'|'.join(_WORD_SCALES)})(?![^\W\d_])\.?"
    rf"|\s{{0,4}}(?:{'|'.join(_SIGN_SCALES)})(?![克米瓦卡伏赫帕焦分])|(?<=[0-9])[kK](?![^\W\d_]|[/^]))"
)
_SCALED = re.compile(
    rf"(?P<number>(?<![0-9.A-Za-z\\])[0-9]{{1,40}}(?:,[0-9]{{3}}){{0,9}}(?:\.[0-9]{{1,40}})?)(?P<end>\$?)(?P<scales>{_SCALE}{{1,3}})(?!\s*[0-9])",
    re.I,
)
_SCALE_BEHIND = re.compile(rf"[\s$*}}]{{0,4}}{_SCALE}", re.I)
_ONE_SCALE = re.compile("|".join([*_WORD_SCALES, *_SIGN_SCALES, "k"]), re.I)
_LEAD = (
    r"(?:(?<=\A)|(?<=[:=(,\n])|(?<=[:=(,\n]\s)|(?<=\bis\s)|(?<=\bes\s)|(?<=\best\s)|(?<=\bé\s)"
    r"|(?<=\bist\s)|(?<=是)|(?<=为)|(?<=は)|(?<=은\s)|(?<=는\s)|(?<=это\s)|(?<=है\s))"
)
_MINUS = re.compile(
    rf"{_LEAD}(?:minus|negative|moins|menos|meno|минус|负|負|マイナス|마이너스|ऋण|سالب)\s*(\$?)\s*(?=[0-9]|\.[0-9]|\\frac|\\sqrt)",
    re.I,
)
_FIGURES_ONLY = re.compile(r"[-+0-9., ()=*/^:%]*")
_PER_MILLE = re.compile(r"(?<![0-9.])([0-9]{1,40}(?:\.[0-9]{1,40})?)\s*‰")
_STRUCK = re.compile(r"~~[^~\n]{1,400}~~")
_TAG = re.compile(r"</?(?:b|strong|i|em|u|span|p|code|center|mark)(?:\s[^<>]{0,80})?>|<br\s*/?>", re.I)
_ENTITY = re.compile(r"&(?:gt|lt|ge|le|ne|amp|nbsp|times|minus|deg|divide|plusmn|approx|frac12|frac14|frac34|sup2|sup3|pi);")
_UNDERLINED = re.compile(r"(?<![^\W_])__(?=\S)([^_\n]{1,400})(?<=\S)__(?![^\W_])")
_MONEY = re.compile(r"(?<![A-Za-z\\])(US|HK|NT|CA|C|AU|A|NZ|SG|S|MX|R)\\?\$\s?(?=[0-9])")
_COLOURS = re.compile(r"\\(?:text)?color\s*\{[A-Za-z]{1,30}\}\s*")
_WRAPPED = re.compile(
    r"\\(?:underline|text(?:bf|it|rm|tt|sf|normal)?|mathrm|mathbf"
    r"|mbox)\s*\{\s*(-?[0-9]{1,40}(?:[,./][0-9]{1,40}){0,6}\s*\\?%?)\s*\}"
)
_DEGREE = re.compile(r"(?<=[0-9}])\s?\\degree(?![A-Za-z])")
_ALIGNED = re.compile(r"\\(?:begin|end)\s*\{(?:align(?:ed|at)?|gather(?:ed)?|equation|split|eqnarray|multline)\*?\}")


def in_figures(text: str) -> str:
    """The text with magnitudes, signs in words and per mille as figures, and without marks that change no value: emphasis,
    colours, the environments of aligned lines. Text that is struck out is none. Linear in the text."""
    if _FIGURES_ONLY.fullmatch(text):
        return text
    if "~~" in text:
        text = _STRUCK.sub(" ", text)
    if "&" in text:
        text = _ENTITY.sub(lambda found: html.unescape(found[0]), text)
    if "<" in text:
        text = _TAG.sub(" ", text)
    if "__" in text:
        text = _UNDERLINED.sub(r"\1", text)
    if "\\" in text:
        text = _WRAPPED.sub(r" \1 ", _COLOURS.sub("", text))
        if _ALIGNED.search(text):
            text = re.sub(r"\\\\\s*(?==)", " ", _ALIGNED.sub(" ", text).replace("&", ""))
            text = text.replace("\\\\", "\n").strip()
        text = _DEGREE.sub(r"^\\circ ", text)
        text = re.sub(r"(?:\\\\\s*)+\Z", "", text)
    text = _MONEY.sub(lambda found: r"\$" if found[1] == "US" else "¤", text)
    text = _PER_MILLE.sub(r"\\frac{\1}{1000}", text)
    text = _MINUS.sub(r"\1-", text)
    return _SCALED.sub(_scaled, text)


def _scaled(found: re.Match[str]) -> str:
    power = sum(_SCALES[one[0].casefold()] if one[0] not in "kK" else 3 for one in _ONE_SCALE.finditer(found["scales"]))
    return f"{found['number'].replace(',', '')}e{power}{found['end']}"


# ---- what makes a number no answer

_WRONG = re.compile(
    r"\b(?:wrong|incorrect\w*|false|mistaken?|untrue|impossible|invalid|nope|fails|(?:is|are"
    r"|was)\s+(?:excluded|eliminated|rejected|out)"
    r"|falsch\w*|inkorrekt|unrichtig|unmöglich|faux|fausse|inexacte?|errón\w+|errone\w+|errad[oa]s?"
    r"|equivocad\w+|fals[oae]|sbagliat\w+|scorrett\w+"
    r"|неверн\w+|неправильн\w+|ошиб\w+|ложь|fout|onjuist|verkeerd|felaktigt?|forkert|błęd\w+|yanlış|salah|sai\s+rồi)\b"
    r"|خطأ|خاطئ|غير\s+صحيح|गलत|ग़लत|错|錯|误|誤|不对|不對|不正|間違|違い|違う|正しくな|틀렸|틀린|틀립|오답|[❌✗✘🚫👎⛔❎]",
    re.I,
)
_DENIED = re.compile(
    r"\b(?:nicht|kein\w*|niemals|nie|weder|außer|pas|jamais|aucun\w*|sauf|nunca|jamás|excepto|salvo|não|nem"
    r"|exceto|non|né|tranne|niet|geen|nooit"
    r"|behalve|не|нет|ни|кроме|inte|ikke|değil|không|bukan|tidak)\b|\bno\s+(?:es|son|está|hay|sea|fue|era"
    r"|de)\b|\bno\s*\$?-?(?:[0-9]|\Z)"
    r"|ليس|لا\s|غير|नहीं|न\s+कि|不(?!等式)|没|沒|非|ない|ません|以外|아니|아닌|않",
    re.I,
)
_BOUND = re.compile(
    r"\b(?:or|oder|ou|o|или|of|and|und|et|y|e|и|ve)\s+(?:more|less|fewer|above|below|higher|lower|over|under"
    r"|up|greater|larger|smaller|mehr|weniger|plus|moins"
    r"|mais|menos|más|meno|più|больше|меньше|более|менее|meer|minder|oltre|üzeri|fazla)\b|\b(?:mehr|weniger"
    r"|größer|kleiner|höher)\s+als\b|\b(?:plus|moins)\s+(?:de|que)\b"
    r"|\b(?:mais|menos|más|più|meno|mayor|menor|maior)\s+(?:de|que|di)\b|\b(?:less|more|fewer|greater|larger"
    r"|smaller|higher|lower|bigger)\s+th[ae]n\b|\btoo\s+(?:high|low|big|small|large|many|few|much|little)\b"
    r"|\b(?:mindestens|höchstens|wenigstens|minimal|maximal|(?:au|du)\s+(?:moins|plus)|al\s+menos"
    r"|a\s+lo\s+(?:más|menos)|como\s+(?:máximo|mínimo|mucho)"
    r"|pelo\s+menos|no\s+(?:máximo|mínimo)|almeno|al\s+(?:massimo|minimo|più)|minstens|hoogstens|minimaal"
    r"|maximaal|не\s+(?:менее|более|больше|меньше))\b"
    r"|\b(?:больше|меньше|более|менее|свыше|выше|ниже|minst|högst)\b|(?:%|\bper\s*cent)\s+(?:more|less|fewer"
    r"|higher|lower|off)\b"
    r"|\b0\s+(?:minimum|maximum|max)\b|\b(?:doubled|tripled|quadrupled|halved|doble|mitad|moitié|hälfte"
    r"|половин\w+)\b|的(?:一半|[两二三四倍]|平方)|の(?:半分|[二三四2-9]倍)"
    r"|\b(?:tenth|hundredth|thousandth|millionth|billionth)s?\b|\band\s+a\s+(?:half|quarter|third|bit)\b"
    r"|\bplus\b|\bminus\b|\bsquared\b|\bcubed\b"
    r"|على\s+ال(?:أقل|أكثر)|أكثر\s+من|أقل\s+من|कम\s+से\s+कम|अधिक|ज़्यादा|ज्यादा|से\s+कम"
    r"|至少|至多|最多|最少|大于|小于|高于|低于|多于|少于|超过|超過|不到|之间|以上|以下|以内|以內|未满|未満|より|을?\s*이상|이하|미만|초과|보다|최소|최대|少なくとも|ても|적어도|많아도|많아야|最大で|から|まで",
    re.I,
)
_MORE_BEHIND = re.compile(r"\s*[个只名元本条张人岁]?(?:多(?![边邊角项項])|余(?!数)|餘|几|幾|强|弱)|\s*\+(?!\s*[0-9A-Za-z(\\$])")
_LIMIT_BEFORE = re.compile(
    r"\b(?:minimum|maximum|minimal|maximal|min|max|mínimo|máximo|minimo|massimo|минимум|максимум)\.?(?:\s+(?:of|de|di|von))?[\s$(\"'*]*\Z",
    re.I,
)
_OF = re.compile(r"([^\W\d_]+)\s+of[\s$(\"'*]*\Z", re.I)
_OF_ITSELF = words_of(
    """
    total sum answer result value number count area perimeter circumference volume length height width depth radius diameter
    distance speed rate average mean median mode range difference cost price profit loss angle measure age weight mass
    temperature probability score population capacity group set team class collection pack bag box list amount consists
    consisting instead slope product quotient interest balance consist made charge force current voltage power energy
    frequency salary fee tip tax discount year
    """
)


def makes_no_answer(words: str) -> str:
    """Why words around one number (without the number) make it no answer, or ""."""
    if _WRONG.search(words):
        return "a negated answer"
    if _BOUND.search(words):
        return "only a bound of the answer"
    return "only says what the answer is not" if _DENIED.search(words) else ""


_NEUTRAL = words_of(
    """
    is are was were be been equals equal = get gets got gives give given has have had need needs costs cost total totals
    count counts counted see find found bought buy sold ate paid pay spent left made makes took takes ran answer ans
    answer's result value sum solution number so thus hence therefore then only exactly just precisely about approximately
    around roughly approx circa ca the a an all of to at in by for my but sondern sino mas mais and or und oder et y o u e
    it's that's there're now altogether finally also these those remaining still both us contains contain shows show there
    here it that this say think become becomes remain remains ist sind war sei lautet beträgt gibt gab ergibt hat haben sehe
    insgesamt genau etwa ungefähr rund gleich somit antwort ergebnis lösung summe wert zeigt sieht zählt kostet anzahl est
    sont sera vaut ont donne égal égale environ exactement donc réponse résultat somme valeur avons compte coûte soit font
    fait es son está están hay tiene tienen igual aproximadamente exactamente unos unas respuesta resultado suma valor da
    tenemos vale cuesta serían sería é são há tem têm resposta soma exatamente temos obtemos dá custa è sono ci risposta
    risultato somma uguale esattamente totale ha hanno antwoord zijn heeft er ongeveer precies svar är odpowiedź jest cevap
    jawaban adalah đáp là ответ равен равна равно равняется это есть всего итого получаем получаете составляет около
    примерно ровно результат сумма هو هي الجواب الإجابة يساوي هناك النتيجة حوالي تقريبا है उत्तर हैं कुल लगभग में जवाब
    """
)
_ENGLISH = re.compile(
    r"\b(?:the|there|this|that|these|those|it|they|we|he|she|his|her|their|have|has|had|with|which|and|from|answer|equals|you|i|my|our|each|of)\b",
    re.I,
)
_CJK_ENDINGS = re.compile(
    r"(?:是|为|為|有|共|计|計|得|等于|等於|约|約|大概|到|出|了|要|花|剩|剩下|还剩|かず|数|數|は|が|に|を|で|と|の|も|こ|ほぼ|およそ|ちょうど|案|果|值|答|即|故|此|以|和|解|中"
    r"|은|는|이|가|를|을|로|총|약|대략|정확히|답|모두|전부|합계|개수|개|의|에|에는|正好|刚好|恰好|一定|应该|应|算|见|见到|看到|里|上|另|共计)\Z"
)
_EAST_ASIAN = re.compile("[⺀-鿿가-힣]")
_STRONG = frozenset("✅✔☑🎉✓👍⭐")


def unclear_before(before: str) -> str:
    """Why the words before a number, in its clause, may change it, or ""."""
    if _LIMIT_BEFORE.search(before):
        return "only a bound of the answer"
    found = _OF.search(before)
    if found and found[1].casefold() not in _OF_ITSELF:
        return "only a part of an operation"
    bare = before.rstrip(" \t\n$(\"'*`[{-\\|#_")
    if not bare:
        return ""
    last = bare[-1]
    if bare.endswith(("->", "=>")):
        return ""
    if last in "<>" or (unicodedata.category(last) in ("So", "Sm") and last not in _STRONG and last not in "=+→⇒∴≈~|^"):
        return f"{last!r} before the number"
    if not last.isalpha() and unicodedata.category(last)[0] != "M":
        return ""
    if _EAST_ASIAN.match(last):
        return "" if _CJK_ENDINGS.search(bare) else "words that are not understood before the number"
    word = re.search(r"[^\W\d_][\w'’]*\Z", _without_marks(bare[-40:]))
    if word is None or word[0].casefold() in _MARKLESS or (before.isascii() and _ENGLISH.search(before)):
        return ""
    if (
        len(word[0]) == 1
        or (before.isascii() and re.search(r"[a-z]{3}ed\Z", word[0]))
        or (len(bare) >= len(word[0]) + 1 and bare[-len(word[0]) - 1 :][:1] == "\\")
    ):
        return ""
    return "words that are not understood before the number"


def _without_marks(text: str) -> str:
    """The text without combining marks, so that a word of any script is letters."""
    return "".join(one for one in text if unicodedata.category(one)[0] != "M") if not text.isascii() else text


_MARKLESS = frozenset(_without_marks(word) for word in _NEUTRAL)


def unclear_behind(behind: str) -> str:
    """Why what stands right behind a number may change it, or ""."""
    if _SCALE_BEHIND.match(behind):
        return "a magnitude apart from its number"
    if _MORE_BEHIND.match(behind):
        return "only a bound of the answer"
    first = behind.lstrip(" $*`\"')]}")[:1]
    if first and unicodedata.category(first) in ("So", "Sm") and first not in _STRONG and first not in "=<>+|~^→⇒°":
        return f"{first!r} behind the number"
    return ""


def clause_before(text: str, at: int) -> str:
    """The words of the same clause before a position, at most 80 characters."""
    return re.split(r"[.;!?\n]\s|\n|[;!?]|,(?![0-9])", text[max(0, at - 80) : at])[-1]


def clause_behind(text: str, at: int) -> str:
    """The words of the same clause behind a position, at most 80 characters."""
    return re.split(r"\.\s|[;!?\n]|,(?![0-9])", text[at : at + 80], maxsplit=1)[0]
