"""How a text asserts, denies or replaces an answer that it names, in the languages in which models answer.

Each pattern is matched against a short window before or behind a candidate (a letter, an option, yes or no), so work is linear
in the text. Not here: what the candidates are (`vlrl.answers.choices`, `vlrl.answers.yes_no`).
"""

from __future__ import annotations

import re

MAX_READ_CHARS = 20_000
"""A longer text is no choice, no yes or no and no plan. It bounds the time of one call; thoughts are not counted."""
OVER_LENGTH = f"longer than {MAX_READ_CHARS} characters"
_WINDOW = 64
"""Characters looked at before and behind a candidate."""
_OPEN = r"[\s(\[{\"'$:<]*"
_CLOSE = r"[\s)\]}\"'$>]*"
_FILLERS = (
    r"(?:be|been|being|is|was|are|it|that|this|to|the|a|an|any|of|my|your|our|option|options|choice|choices|answer|answers|letter"
    r"|correct|right|true|best|necessarily|really|actually|simply|just|think|believe|say|saying|choose|choosing|pick|picking"
    r"|select|selecting|go|going|with|would|could|should|can|must|possibly|probably|either|as|by|for|number|clearly|definitely"
    r"|likely|most|only|itself|both|final|therefore|thus"
    r"|die|der|das|antwort|la|el|le|les|lo|los|las|une|un|una|opción|respuesta|letra|réponse|lettre|resposta|opção|risposta|opzione"
    r"|s|es|est|são|é|è|ist|sind|ser|sea|estar|está|o|os|as|um|uma|eine?|correct[ao]|corret[ao]|cert[ao]|richtige?|bonne|bon|juste"
    r"|sure|certain|convinced|if|whether|escolho|elijo|choisis|scelgo|wähle|nehme|acho|creo|pense|glaube|denke|là|jest|to"
    r"|alternativa|вариант|ответ|это|буква|هو|هي|الخيار|الإجابة)"
)
_GAP = rf"(?:{_OPEN}\b{_FILLERS}\b){{0,7}}{_OPEN}\Z"
_NOT_BEFORE = re.compile(
    r"(?:\b(?:not|never|neither|nor|nothing|cannot|hardly|excluding|except|exclude[sd]?|reject(?:s|ed|ing)?|eliminat(?:e|es|ed|ing)"
    r"|discard(?:s|ed|ing)?|dismiss(?:es|ed|ing)?|avoid(?:s|ed|ing)?|doubt(?:s|ed|ful|ing)?|deny|denies|refuse|disagree|skip(?:s|ped|ping)?|ignor(?:e|es|ed|ing)|disregard"
    r"|reject|mistake|unlikely|without|beside[s]?|against)\b"
    r"|n't\b"
    r"|\b(?:any|all|every|anything|anyone|everything|everyone|each)(?:\s+(?:option|choice|answer|one))?\s+(?:but|except)\b"
    r"|\b(?:except|apart|aside|far|different|other|rather|instead|opposite|contrary)\s+(?:for|from|than|of|to)\b"
    r"|\b(?:rul(?:e|es|ed|ing)|cross(?:es|ed|ing)?|leav(?:e|es|ing))\s+out\b|\bno\s+longer\b"
    r"|\b(?:wrong|incorrect|false|worst|bad|least|less|unlikel(?:y|iest))\s+(?:\w+\s+){0,2}(?:is|are|was|would\s+be)\b|\b(?:wrong|incorrect|false)\s*:|\b(?:wrong|false|untrue)\s+that\b"
    r"|\b(?:initially|originally|at\s+first|first(?:ly)?)\b[^.;!?\n]{0,24}\b(?:thought|guess(?:ed)?|said|chose|picked|seemed)\b"
    r"|\b(?:tempting|tempted|mistake[n]?|confuse[d]?)\b"
    r"|\b(?:nicht|keine?|keinesfalls|niemals|nie|weder|noch|außer|ausser|statt|anstatt)\b"
    r"|\bno\s+(?:es|sea|son|está|elijo|elegir[ií]a)\b|\b(?:nunca|jamás|tampoco|ni|excepto|exceto|salvo|menos|mai|tranne|eccetto|sem|sin)\b"
    r"|\b(?:pas|jamais|sauf|excepté|hormis)\b|\b(?:plutôt\s+que|au\s+lieu\s+de|en\s+lugar\s+de|en\s+vez\s+de)\b"
    r"|\b(?:non|não|nem|né|не|ни|нет|кроме|никогда|исключая|không\s+phải|bukan|jangan|tidak|değil|ikke|inte|niet|geen)\b|✗"
    r"|(?:ليس|ليست|غير|ليسا|ما\s+عدا|باستثناء)(?:\s+(?:هو|هي|الخيار|الإجابة))?"
    r"|(?:不是|并非|並非|不为|不為|不选|不選|不会是|不會是|不可能是|绝不是|絕不是|绝非|而非|非|除了|排除|不应选|不应该选|不应该是|不能选"
    r"|没有选|别选|不要选|不认为是|不认为答案是|不等于|不属于|错误的是|错误答案是|错误选项是)\s*(?:答案|选项|選項|选|選)?"
    r")" + _GAP,
    re.IGNORECASE,
)
_FALSE = (
    r"falsch|inkorrekt|falso|falsa|faux|fausse|incorrect[ao]|incorrecte|incorret[ao]|errad[ao]|sbagliat[ao]|fout|fel|salah|sai|yanlış"
    r"|неправильный|неправильно|неверно|неверный|ложь|неправда|нет|nicht|nein|non|não|nunca|rechazad[ao]|descartad[ao]|geen|niet"
)
_AUX = r"(?:is|are|was|were|does|do|did|has|have|would|could|should|must|can|will|might|may|seems?|looks?|appears?|'s)"
_ADVERBS = r"(?:(?:\w+ly|also|just|both|all|the|an?|quite|most|very|almost|to|be|been|thus|therefore|then)\s+)"
_BAD = (
    r"(?:wrong|incorrect|false|untrue|impossible|invalid|mistaken|excluded|eliminated|rejected|disproved|refuted|ruled\s+out|out\b(?!\s+of)|unlikely"
    r"|implausible|inaccurate|(?:the\s+|an?\s+)?(?:mistake|distractor|trap|error|lie|decoy|misconception|red\s+herring|bad|poor|least)\b|(?:my\s+)?(?:second|last)\s+(?:choice|guess)|not\b|never\b|no\b(?!\s+doubt)|nope\b|neither|worse)"
)
_NOT_BEHIND = re.compile(
    rf"{_CLOSE}(?:"
    rf"[\s:;,.-]*✗|[\s:;,.—–-]*(?:(?:is|es|est|ist|está|é|è|jest|adalah)\s+)?(?:{_FALSE})(?:\s+(?:है|ответ|вариант|answer|choice|option))?\s*(?:[.,!;:)\]\n]|\Z)"
    rf"|[\s:;,.!?]*(?:and|but|or)\s+(?:also\s+|maybe\s+)?not\s*(?:[.,!;]|\Z)"
    rf"|\b(?:is|are|was|were|would|could|should|must|can|will|might|may)n't\b|\b(?:cannot|can't|won't)\b"
    rf"|\b(?:do|does|did)(?:n't|\s+not)\s+(?:fit|match|work|apply|hold|seem|look|make|correspond|answer|belong)\b"
    rf"|{_AUX}\s+{_ADVERBS}{{0,4}}{_BAD}"
    rf"|[\s,;:.!?(\[-]*(?:is\s+)?(?:no|nope|nah|wrong|incorrect|false|not|untrue|never)"
    rf"(?:\s+(?:way|correct|right|true|so|quite|really|it|this|that|one|answer|option|choice))?\s*(?:[.,!;:)\]\n]|\Z)"
    r"|\s*(?:option|choice)?\s*\b(?:excluded|eliminated)\b"
    r"|\s*(?:ist|wäre|sind)\s+(?:\w+\s+)?(?:falsch|nicht|inkorrekt|keine?|unmöglich|ausgeschlossen)|\s*stimmt\s+nicht"
    r"|\s*(?:no|nunca|tampoco)\s+(?:es|son|está|sea|puede)\b"
    r"|\s*(?:es|son|está|est|è|é)\s+(?:\w+\s+)?(?:incorrect|fals|erróne|faux|fausse|sbaglia|errad|incorret|équivoc|equivoc)"
    r"|\s*(?:n'est|ne\s+sont)\s+pas|\s*non\s+è|\s*não\s+é|\s*está\s+errad|\s*(?:не|неверн|неправильн)|\s*(?:değil|salah)\b"
    r"|[^,.;!?\n।A-Za-z]{0,30}(?:नहीं|गलत|ग़लत|अलावा|छोड़|خطأ|خاطئ|غير|ليس|غلط|неверн|неправильн|ошибоч|틀[린림렸립]|아[니님닌]|오답|違[いうっ]|誤り)"
    r"|[\s?]*(?:吗|嗎|么)?[\s?,.]*(?:不是|不对|不對|否|非)(?=[\s.,!]|\Z)"
    r"|[\s:]*(?:选项|選項|项|項)?\s*(?:都|也|就|显然|明显)?\s*(?:是|为)?\s*(?:错|錯|不对|不對|不正确|不正確|不符|不是|有误|除外|被排除|不行"
    r"|不可能|不成立|不合|不选|不選|可以排除|应排除)"
    r"|\s*(?:ではない|じゃない|ではありません|ではなく|じゃなく|でない|は間違|は誤|が間違|が誤|以外|は違|は不正解|は正しくな)"
    r"|\s*(?:번)?(?:가|이|는|은|를|을)?\s*(?:아니|아닙|아닌|틀렸|틀린|틀립|제외|말고|오답)"
    r")",
    re.IGNORECASE,
)
_ANSWER = (
    r"(?:(?<![^\W_])(?:answers?|solution|response|conclusion|choice|selection|option|letter|guess|pick"
    r"|antwort|lösung|respuesta|opción|opcion|alternativa|solución|réponse|reponse|choix|resposta|opção|risposta|opzione|soluzione"
    r"|odpowiedź|antwoord|svar|ответ|вариант|jawaban(?:nya)?|cevap|đáp\s+án|câu\s+trả\s+lời)(?![^\W_])"
    r"|答案|正解|答え|解答|回答|正答|选项|選項|选择|選擇|結論|结论|정답|답|उत्तर|คำตอบ|คําตอบ|الإجابة|الجواب|الخيار|إجابة|جواب)"
)
_LINK = (
    r"(?:(?<![^\W_])(?:is|was|be|are|'s|ist|lautet|wäre|sind|es|sería|seria|está|est|serait|sera|è|é|sarà|adalah|là|это|as)(?![^\W_])"
    r"|[:=]|->|→|⇒|是|为|為|选|選|應|应|は|が|은|는|이|هي|هو|คือ|है)"
)
_STATED_BEFORE = re.compile(rf"{_ANSWER}(?:[^\n;!?.]{{0,40}}?{_LINK})?{_GAP}", re.IGNORECASE)
_LINKED_BEFORE = re.compile(rf"{_ANSWER}[^\n;!?.]{{0,40}}?{_LINK}{_GAP}", re.IGNORECASE)
_NUMBERED_BEFORE = re.compile(rf"\b(?:option|choice|letter)\b{_OPEN}\Z|(?:选项|選項|選択肢|선택지|보기)\s*\Z", re.IGNORECASE)
_CHOSEN_BEFORE = re.compile(
    r"(?:\b(?:choose|chose|choosing|select|selecting|selected|pick|picking|picked|go\s+(?:with|for)|going\s+with|opt\s+for"
    r"|settle\s+on|decide\s+on|vote\s+for|answer(?:ing)?(?:\s+with)?|say|guess|mark|but|sondern|sino|mais|wähle|nehme"
    r"|elijo|escojo|choisis|escolho|scelgo|выбираю|chọn|pilih|not\s+\w+\s+but)\b|选择|選擇|应选|应该选|故选|选|選|挑|而是|应为|应该是|أختار|اختر)"
    + _GAP,
    re.IGNORECASE,
)
_COPULA_BEFORE = re.compile(
    r"(?:(?<![^\W_])(?:is|are|be|was|were|'s|ist|es|est|è|é|therefore|thus|hence|so|then|finally|consequently|donc|also|deshalb|luego"
    r"|perhaps|maybe|possibly|probably|likely|either|think|believe)(?![^\W_])[,:]?|是|为|為|因此|所以|故|よって|따라서|هو|هي|это)"
    + _GAP,
    re.IGNORECASE,
)
_STATED_BEHIND = re.compile(
    rf"{_CLOSE}[,:\s-]*(?:"
    rf"(?:(?:is|was|are|were|must|would|could|might|may|seems?|looks?|appears?|should|has\s+to|can)\b\s*){{1,2}}{_ADVERBS}{{0,4}}(?:my\s+)?"
    rf"{_ADVERBS}?(?:correct|right|best|true|answer|better|accurate|appropriate|closest|good|likely|most|final|possible|plausible"
    rf"|acceptable|valid|fine|solution|choice|option|one|it)\b|it\s+is\b|yes\b"
    r"|(?:ist|wäre)\s+(?:\w+\s+)?(?:richtig|korrekt|wahr|zutreffend|antwort|lösung)"
    r"|(?:es|est|è|é|sería)\s+(?:(?:la|le|el|a|o|il|l'|probablemente)\s*)?(?:\w+\s+)?(?:correct|corret|bonne|juste|vrai|verdader|respuesta"
    r"|réponse|resposta|risposta|giust|cert)"
    r"|(?:선택지|번)?(?:가|이|은|는|를|을)?\s*(?:정답|맞|옳|답|입니다|이다|예요|이에요|선택|고르)"
    r"|(?:が|は|も)?\s*(?:正解|正しい|答え|適切|です|だ|である|になります|を選)"
    r"|(?:选项|選項|项|項)?\s*(?:是|为|最|才是|也|都|更)*\s*(?:正确|正確|对|對|正解|合适|符合|最佳|答案|可能|可以)"
    r"|(?:هو|هي)\s+(?:الجواب|الإجابة|الصحيح|الخيار)|правиль|верн|सही"
    r")",
    re.IGNORECASE,
)
_REPLACED = re.compile(
    r"\b(?:no|nope|nein|non|nee|нет)\b\s*[,:;.!?-]|\bwait\b|\bcorrection\b|\bscratch\s+that\b|\bstrike\s+that\b"
    r"|(?:^|[.!?;,:\n(-])\s{0,3}(?:(?:oh|hm{1,6}|but|ah|well|so|and)[\s,]{1,3})?(?:actually|instead|rather|sorry|oops|in\s+fact)\b(?!\s+(?:than|of))"
    r"|\bon\s+second\s+thoughts?\b|\bi\s+mean(?:t)?\b|\bmy\s+mistake\b|\blet\s+me\s+(?:correct|revise|change|fix|reconsider)\b"
    r"|\bi\s+(?:change|correct|revise|take\s+(?:it|that)\s+back|made\s+a\s+mistake|was\s+wrong)\b|\b(?:revised|corrected)\b"
    r"|\b(?:korrektur|mejor\s+dicho|perdón|en\s+realidad|moment\s+mal|en\s+fait|plutôt)\b|точнее|تصحيح"
    r"|不对|不對|(?:^|[,.;!?\s])不[,.]|等等|等一下|更正|纠正|改正|改为|改成|错了|錯了|修正|訂正|いや[,.、]|違う|間違えた|아니[,.]|아니요[,.]|정정",
    re.IGNORECASE,
)
_DENIAL = re.compile(
    r"\b(?:not|never|none|neither|nor|without|cannot|anything\s+but|except|nicht|kein\w*|pas|jamais|nunca|não|не)\b|n't\b"
    r"|(?:不是|并非|並非|不|没有|非|除了)|ではない|じゃない|ありません|아니|않|ليس",
    re.IGNORECASE,
)
_SPACES = re.compile(r"[^\S\n]+")
_LINES = re.compile(r" ?\n[ \n]*")
_CLAUSE_END = re.compile(r"[;\n!?]|\.(?=\s|\Z)")


_LISTING = re.compile(
    r"\A.*\b(?:each|every|all|these|following|given|options|choices)\b[^\n]*\n\s*\Z|\A.*(?:以下|选项如下|各选项|每个选项)[^\n]*\n\s*\Z",
    re.I,
)
"""A line that announces a list of choices, not an answer."""


def one_spaced(text: str) -> str:
    """The text with one space for runs of white space, one line break where a run holds one: what keeps the patterns linear."""
    return _LINES.sub("\n", _SPACES.sub(" ", text))


def before(text: str, start: int, since: int = 0) -> str:
    """The window before a position, in its own sentence."""
    window = text[max(since, start - _WINDOW) : start]
    cut = 0
    for end in _CLAUSE_END.finditer(window):
        if window[end.end() :].strip():
            cut = end.end()
    return _LISTING.sub("", window[cut:])


def behind(text: str, end: int) -> str:
    """The window behind a position."""
    return text[end : end + _WINDOW]


def denied(ahead: str, rest: str) -> bool:
    """Whether a candidate between these two windows is denied: "not B", "anything but B", "B is wrong", "B? No."."""
    return _NOT_BEFORE.search(ahead) is not None or _NOT_BEHIND.match(rest) is not None


def denied_before(ahead: str) -> bool:
    return _NOT_BEFORE.search(ahead) is not None


def denied_behind(rest: str) -> bool:
    return _NOT_BEHIND.match(rest) is not None


def linked(ahead: str) -> bool:
    """Whether a window ends in words such as "the answer is" or "Answer:"."""
    return _LINKED_BEFORE.search(ahead) is not None


def numbered(ahead: str) -> bool:
    """Whether a window ends in "option"."""
    return _NUMBERED_BEFORE.search(ahead) is not None


def stated(ahead: str, rest: str, ends: bool) -> bool:
    """Whether a candidate is named as the answer: "the answer is B", "I choose B", "B is correct"; "so it is B" at an end."""
    return (
        _LINKED_BEFORE.search(ahead) is not None
        or (_STATED_BEFORE.search(ahead) is not None and not numbered(ahead))
        or _CHOSEN_BEFORE.search(ahead) is not None
        or _STATED_BEHIND.match(rest) is not None
        or (ends and _COPULA_BEFORE.search(ahead) is not None)
    )


def last_replacement(text: str) -> re.Match[str] | None:
    """The last place at which a text says that it replaces what it said before ("No:", "wait", "更正")."""
    last = None
    for found in _REPLACED.finditer(text):
        last = found
    return last


def denials(text: str) -> bool:
    """Whether a text holds a word that denies."""
    return _DENIAL.search(text) is not None
