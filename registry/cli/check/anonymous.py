"""Takes out of a report what says whose machine it is, so that it can be sent to others."""

from __future__ import annotations

import os
import platform
import re
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

#: Variables whose values are nobody else's business.
_SECRET = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|(API|ACCESS|PRIVATE)_?KEY|(^|_)KEY$", re.IGNORECASE)
_SHORT = 6  # characters: a shorter value may be any word


def anonymous(text: str, environ: Mapping[str, str] = os.environ) -> str:
    """Return a text without secrets, names and addresses of this machine, and folders of its user.

    Args:
        text: what is written.
        environ: the environment variables; the value of one with a secret's name is taken out wherever it is.
    """
    for value, said in sorted(_private(environ), key=lambda item: -len(item[0])):
        text = re.sub(rf"(?<!\w){re.escape(value)}(?!\w)", said, text)
    return text


def without_names(report: Any) -> Any:
    """Return a report with each of its texts as :func:`anonymous` gives it."""
    if isinstance(report, str):
        return anonymous(report)
    if isinstance(report, Mapping):
        return {key: without_names(value) for key, value in report.items()}
    return [without_names(value) for value in report] if isinstance(report, (list, tuple)) else report


def _private(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for name, value in environ.items():
        if _SECRET.search(name) and len(value) >= _SHORT:
            yield value, f"<{name}>"
    folders = {"temp": tempfile.gettempdir(), "here": os.getcwd(), "python": sys.prefix}
    folders |= {"home": str(Path.home())}
    for said, folder in folders.items():
        if folder != "/":
            yield folder, f"<{said}>"
    host = platform.node()
    if host and host != "localhost":
        yield host, "<host>"
        for address in _addresses(host):
            yield address, "<address>"


def _addresses(host: str) -> set[str]:
    try:
        found = {str(item[4][0]) for item in socket.getaddrinfo(host, None)}
    except OSError:  # a name that nothing resolves
        return set()
    return {item for item in found if not item.startswith("127.") and item != "::1"}
