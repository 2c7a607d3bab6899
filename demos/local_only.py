"""Who may start and stop runs: only a browser on this machine that shows this very page.

A run is a program with the rights of whoever serves the page, so more is asked than a password. Another site that the same
browser has open (cross-site requests), a name that was pointed at this machine (DNS rebinding), a proxy or tunnel that hands
requests on, and every other machine are refused. Not here: who may look (`demos.app.login`).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

import gradio as gr

HANDED_ON = ("x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "forwarded", "via", "cf-connecting-ip")
"""Headers of a request that came through a proxy or a tunnel."""
REFUSAL = "runs are started and stopped only in a browser on the machine that serves this page, at http://127.0.0.1"


def is_local(request: gr.Request | None) -> bool:
    """Whether a request comes from a page of ours in a browser on this machine."""
    if request is None or request.client is None:
        return False
    headers = {str(name).lower(): str(value) for name, value in request.headers.items()}
    return is_local_request(str(request.client.host), headers)


def is_local_request(client: str, headers: Mapping[str, str]) -> bool:
    """`client`: the address it came from; `headers`: with names in lower case. A request without `Origin` is no browser's that
    could be led astray: browsers send it with every POST to another site."""
    if not _is_loopback(client) or any(name in headers for name in HANDED_ON):
        return False
    host = headers.get("host", "")
    if not _is_local_name(_name_of(f"//{host}")):
        return False
    origin = headers.get("origin")
    if origin is not None and urlsplit_safe(origin) != ("http", host) and urlsplit_safe(origin) != ("https", host):
        return False
    return headers.get("sec-fetch-site", "same-origin") in ("same-origin", "none")


def urlsplit_safe(address: str) -> tuple[str, str]:
    """Scheme and host with port of an address; empty for what is none."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return "", ""
    return parts.scheme, parts.netloc


def _name_of(address: str) -> str:
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""


def _is_loopback(address: str) -> bool:
    try:
        found = ipaddress.ip_address(address.strip("[]"))
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)  # 127.0.0.1 as a server on :: sees it
    return bool((mapped or found).is_loopback)


def _is_local_name(name: str) -> bool:
    return name == "localhost" or _is_loopback(name)
