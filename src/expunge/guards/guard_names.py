"""What a guard of a store may be called: its name is a folder's."""

from __future__ import annotations

import re
import unicodedata

from expunge.errors import ConfigError

_LONGEST = 120  # bytes of a name; file systems take 255
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_UNFIT = '/\\:*?"<>|'


def check_name(name: str) -> None:
    """Raise ConfigError where ``name`` cannot be a folder's on every system."""
    unfit = sorted({sign for sign in name if sign in _UNFIT or unicodedata.category(sign).startswith("C")})
    wrong = [
        f"has {', '.join(map(repr, unfit))}" if unfit else "",
        "is empty" if not name.strip() else "",
        "begins with a dot or a blank" if name[:1] in (".", " ") else "",
        "ends with a dot or a blank" if name[-1:] in (".", " ") else "",
        f"is longer than {_LONGEST} bytes" if len(name.encode(errors="replace")) > _LONGEST else "",
        "is a device's name on Windows" if _RESERVED.fullmatch(name) else "",
    ]
    if any(wrong):
        raise ConfigError(
            f"a guard cannot be called {name!r}: the name {' and '.join(filter(None, wrong))}. It is the name of a "
            "folder; take letters, digits, blanks and hyphens."
        )


def folded(name: str) -> str:
    """What two names that are the same have in common: a file system may not tell upper and lower case."""
    return unicodedata.normalize("NFC", name).casefold()
