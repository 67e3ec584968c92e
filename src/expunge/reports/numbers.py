"""How numbers are written, in the terminal and on the page: three significant digits, never a false zero."""

from __future__ import annotations

import math

NONE = "\N{EN DASH}"
"""What stands where there is no number."""


def number(value: float | None, digits: int = 3) -> str:
    """``value`` to ``digits`` significant digits; small ones as ``2.1e-4``, none and NaN as an en dash.

    Integers stay whole (``n`` = 40, steps), and trailing zeros are kept, so that columns line up: 0.9 is
    ``0.900``.
    """
    if value is None or isinstance(value, bool) or math.isnan(value):
        return NONE
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if isinstance(value, int):
        return f"{value:,}"
    if value == 0:
        return "0"
    # The exponent is that of the rounded number: 0.99996 is written 1.00, not 1.000.
    mantissa, exponent_text = f"{value:.{digits - 1}e}".split("e")
    exponent = int(exponent_text)
    if exponent < -3 or exponent > 6:
        return f"{mantissa}e{exponent}"
    places = max(0, digits - 1 - exponent)
    return f"{float(f'{mantissa}e{exponent}'):,.{places}f}"


def stderr(value: float | None) -> str:
    """A standard error to two significant digits with its sign, or nothing where there is none."""
    return "" if value is None or math.isnan(value) else f"±{number(float(value), 2)}"


def percent(share: float | None) -> str:
    """A share as people say it: ``54%``, ``3.2%``, ``<0.1%``; none as an en dash."""
    if share is None:
        return NONE
    if 0 < share < 0.001:
        return "<0.1%"
    return f"{100 * share:.{1 if 0 < share < 0.0995 else 0}f}%"


def percent_at_most(share: float) -> str:
    """An upper limit in percent, rounded up: ``1.7%`` for 0.0164, ``5.0%`` for 0.05."""
    # what binary fractions add to a round number is no reason to round up
    return f"{math.ceil(1000 * share - 1e-9) / 10:.1f}%"


def percent_at_least(share: float) -> str:
    """A lower limit in whole percent, rounded down."""
    return f"{math.floor(100 * share + 1e-9)}%"


def sign(value: float | None, digits: int = 3) -> str:
    """A number with its sign: ``+0.658``, ``-1.20``."""
    text = number(value, digits)
    return f"+{text}" if value is not None and value > 0 else text


def count(n: int, one: str, many: str | None = None) -> str:
    """``1 seed``, ``5 seeds``."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def duration(seconds: float) -> str:
    """Seconds as people say them: ``0.42 s``, ``18.3 s``, ``3 min 05 s``, ``2 h 10 min``."""
    if seconds < 60:
        return f"{number(float(seconds))} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
