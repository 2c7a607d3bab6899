"""Keys and passwords are never written: `masked` takes them out of every text that leaves the program, to a file or a screen.

Secret are the values of environment variables and options named like a key, user and password or a query of an address, and
what has the form of a well-known key. Not here: who writes what.
"""

from __future__ import annotations

import io
import os
import re
import sys
import traceback
import urllib.parse
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

MASK = "***"
MIN_KEY_CHARS = 8
"""Shorter values of the environment are not looked for in texts: "EMPTY" and "none" are words, no keys."""
_SECRET_WORDS = frozenset("key apikey token secret password passwd passphrase pwd credential credentials".split())  # noqa: SIM905
_OTHER_KEYS = frozenset(
    "eos bos pad unk sep cls mask image video special stop start end think ans answer question label row id sort".split()  # noqa: SIM905
)
"""Words before "key" or "token" that make it something else: `eos_token`, `ans_key`."""
_QUERY_WORDS = _SECRET_WORDS | {"auth", "sig", "signature", "code", "jwt"}
_SHELLS = ("PWD", "OLDPWD")
"""Named like a password, but set by every shell to the working folder."""
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_HARMLESS = re.compile(r"true|false|none|null|[+-]?[0-9.]+(?:e[+-]?[0-9]+)?|<[^<>]*>|\*+|\$\{?\w+\}?", re.IGNORECASE)
"""Values that are no keys, whatever the name: truth values, numbers, special tokens, names of variables."""
_ADDRESS = re.compile(r"(?<![a-z0-9+.-])[a-z][a-z0-9+.-]*+://[^\s\"'<>`]+", re.IGNORECASE)
_NAME = re.compile(r"(?<![A-Za-z0-9_-])(?P<name>[A-Za-z0-9_-]++)(?P<sign>[\"']?\s{0,3}[=:]\s{0,3}(?P<quote>[\"']?))")
_VALUE = re.compile(r"[^\s,;&\"'(){}\[\]]+")
_SCHEME = re.compile(
    r"(?P<before>\bBearer\s++|\bAuthorization[\"']?\s*[:=]\s*[\"']?(?:(?:Bearer|Basic|Digest|Token|ApiKey)\s+)?+)"
    r"(?!\*\*\*)(?P<value>[^\s,;\"']{4,})",
    re.IGNORECASE,
)
_FORMS = re.compile(
    r"\b(?:sk-[\w-]{16,}|hf_\w{20,}|gh[pousr]_\w{20,}|glpat-[\w-]{16,}|AKIA[0-9A-Z]{16}|xox[abprs]-[\w-]{10,}|AIza[\w-]{30,})"
)
"""Keys of OpenAI and others, Hugging Face, GitHub, GitLab, AWS, Slack and Google by their form."""


def is_secret_name(name: str) -> bool:
    """Whether an option or a variable of this name holds a key or a password: `api_key`, `hub_token`, `openaiKey`; not
    `max_tokens`, `eos_token`."""
    words = [word.lower() for word in _WORD.findall(name)]
    return any(word in _SECRET_WORDS and (i == 0 or words[i - 1] not in _OTHER_KEYS) for i, word in enumerate(words))


_remembered: set[str] = set()


def remember_secret(name: str, value: str) -> None:
    """Mask an option's value from here on, where the option is named like a key."""
    if is_secret_name(name) and len(value) >= MIN_KEY_CHARS and not _HARMLESS.fullmatch(value):
        _remembered.add(value)


def without_remembered(text: str) -> str:
    """The text without the values of `remember_secret`; quick where there are none."""
    for secret in _remembered:
        text = text.replace(secret, MASK)
    return text


def known_secrets() -> list[str]:
    """What `remember_secret` was told and the values of the environment's keys and tokens, the longest first."""
    named = _remembered | {value.strip() for name, value in os.environ.items() if is_secret_name(name) and name not in _SHELLS}
    found = [value for value in named if len(value) >= MIN_KEY_CHARS and not _HARMLESS.fullmatch(value)]
    return sorted(found, key=len, reverse=True)


def masked(text: str) -> str:
    """The text without keys and passwords. What was masked already stays as it is."""
    for secret in known_secrets():
        for form in (secret, urllib.parse.quote(secret, safe="")):
            text = text.replace(form, MASK)
    text = _ADDRESS.sub(lambda found: _masked_address(found[0]), text)
    text = _SCHEME.sub(lambda found: found["before"] + MASK, text)
    return _FORMS.sub(MASK, _without_pairs(text))


def masked_value(value: Any, name: str = "") -> Any:
    """A value of JSON or YAML, and all it holds, without keys and passwords. `name`: the option's, or its key's."""
    if isinstance(value, Mapping):
        return {key: masked_value(one, str(key)) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(masked_value(one, name) for one in value)
    if not isinstance(value, str):
        return value
    return MASK if value and is_secret_name(name) and not _HARMLESS.fullmatch(value) else masked(value)


def masked_command(words: Sequence[str]) -> list[str]:
    """The words of a command line without keys and passwords."""
    found: list[str] = []
    flag = ""
    for word in words:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            found.append(f"--{name}{equals}{masked_value(value, name)}")
            flag = "" if equals else name
        else:
            found.append(masked_value(word, flag))
    return found


def without_secrets(base: str) -> str:
    """The address without user, password, query and fragment, to be shown."""
    try:
        parts = urllib.parse.urlsplit(base)
    except ValueError:
        return "(an address that cannot be read)"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def secret_in_address(text: str) -> str | None:
    """What an address in a text holds that must not be written ("a user and password", "the query value 'api_key'"), or None
    for a text without such an address."""
    for found in _ADDRESS.findall(text):
        try:
            parts = urllib.parse.urlsplit(found)
        except ValueError:
            continue
        if "@" in parts.netloc:
            return "a user and password" if ":" in parts.netloc.rpartition("@")[0] else "a user or key before the '@'"
        for what, pairs in (("query", parts.query), ("fragment", parts.fragment)):
            for pair in re.split("[&;]", pairs):
                name, _, value = pair.partition("=")
                if value and _is_query_secret(urllib.parse.unquote(name)):
                    return f"the {what} value {name!r}"
    return None


def _is_query_secret(name: str) -> bool:
    return any(word.lower() in _QUERY_WORDS for word in _WORD.findall(name))


KEY_VARIABLES = {
    "corrector_url": ("VLRL_CORRECTOR_API_KEY", "OPENAI_API_KEY"),
    "judge_url": ("VLRL_JUDGE_API_KEY", "OPENAI_API_KEY"),
    "base_url": ("OPENAI_API_KEY",),
}
"""The environment variables with an endpoint's key, by the option of its address; the first that is set counts."""


def address_problem(name: str, value: Any) -> str | None:
    """Why an option's value (a text or a list) must not be taken, in one line: an address in it holds a key or password, which
    a run writes into its files. None for any other value. `name`: the option's, without "--"."""
    for text in value if isinstance(value, list | tuple) else [value]:
        what = secret_in_address(text) if isinstance(text, str) else None
        if what is None:
            continue
        named = "judge_url" if "judge_url" in text else name
        place = " or ".join(KEY_VARIABLES.get(named, ("OPENAI_API_KEY",)))
        return (
            f"{masked(text)}: the address holds {what}, which would stand in config.yaml, summary.json and logs; leave it out"
            f" and set {place}, which is sent in the Authorization header (where the server wants it in the address, leave out"
            " the option and set OPENAI_API_BASE to the whole address)"
        )
    return None


def guard_console() -> None:
    """From here on tracebacks show no key or password, and what is printed cannot fail for a character that the console does
    not have."""
    sys.excepthook = masked_traceback
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def masked_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """In place of `sys.excepthook`: the traceback, without keys and passwords."""
    if not issubclass(kind, KeyboardInterrupt):
        print(masked("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr, flush=True)
        return
    sys.__excepthook__(kind, error, trace)


def _masked_address(address: str) -> str:
    """An address without user and password, and with its secret query values masked."""
    head, slashes, rest = address.partition("://")
    end = next((i for i, c in enumerate(rest) if c in "/?#"), len(rest))
    host = f"{MASK}@{rest[:end].rpartition('@')[2]}" if "@" in rest[:end] else rest[:end]

    def pair(found: re.Match[str]) -> str:
        return f"{found[1]}{found[2]}={MASK}" if _is_query_secret(urllib.parse.unquote(found[2])) else found[0]

    return head + slashes + host + re.sub(r"([?&#;])([^=&#;?]+)=(?!\*\*\*)([^&#;]+)", pair, rest[end:])


def _without_pairs(text: str) -> str:
    """The text with the values of `name=value` and `name: value` masked where the name is that of a key."""
    parts, end = [], 0
    for found in _NAME.finditer(text):
        if found.start() < end or not is_secret_name(found["name"]):
            continue
        start = found.end()
        if text[start : start + len(MASK)] != MASK and _is_key(found, text[start : start + 200]):
            value = _VALUE.match(text, start)
            parts += [text[end:start], MASK] if value else []
            end = value.end() if value else end
    return "".join([*parts, text[end:]])


def _is_key(name: re.Match[str], after: str) -> bool:
    """Whether what follows a name is a key, and not a word of a sentence ("a token: the thing", "known: key=value")."""
    value = _VALUE.match(after)
    if value is None or _HARMLESS.fullmatch(value[0]):
        return False
    is_clear = "=" in name["sign"] and name["name"].lower() not in ("key", "token")
    return is_clear or bool(name["quote"]) or (len(value[0]) >= MIN_KEY_CHARS and any(c.isdigit() for c in value[0]))
