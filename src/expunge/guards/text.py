"""Text as a classifier reads it: written in whatever letters, case and spacing, the same words look the same."""

# ruff: noqa: RUF001 - look-alikes are the point here

from __future__ import annotations

import re
import unicodedata

# Look-alikes of Latin letters, one line a Latin letter: small forms under the small letter, capitals under the capital.
# Where a script's capital and small letter look like different Latin letters (Greek eta: H and n), each has its own.
_ALIKE = {
    "a": "аαɑᴀаꭺ", "b": "вьβʙƅ", "c": "сᴄϲ", "d": "ԁđɗᴅ", "e": "еεєᴇɛ", "f": "ƒꜰ", "g": "ɡɢց", "h": "нһհħʜ",
    "i": "іιıɩɪӏ", "j": "јᴊϳ", "k": "кκᴋ", "l": "łʟ", "m": "мᴍ", "n": "пηոɴ", "o": "оοօøσᴏ", "p": "рρᴘ",
    "q": "ԛզ", "r": "гʀᴦ", "s": "ѕꜱ", "t": "тτŧᴛ", "u": "υսμᴜ", "v": "νѵᴠ", "w": "ԝωѡᴡ", "x": "хχ", "y": "уγүʏ",
    "z": "ζᴢ",
    "A": "АΑᎪ", "B": "ВΒᏴ", "C": "СϹᏟ", "D": "ĐᎠ", "E": "ЕΕЄᎬ", "G": "ԌᏀ", "H": "НΗҺᎻ", "I": "ІΙӀ", "J": "ЈᎫ",
    "K": "КΚᏦ", "L": "ŁᏞ", "M": "МΜᎷ", "N": "Ν", "O": "ОΟØՕ", "P": "РΡᏢ", "Q": "Ԛ", "R": "Ꭱ", "S": "ЅᏚ", "T": "ТΤᎢ",
    "U": "Ս", "V": "ѴᏙ", "W": "ԜᎳ", "X": "ХΧ", "Y": "ΥУҮ", "Z": "ΖᏃ",
    "'": "‘’‚‛′`ʹʼ", '"': "“”„‟″«»", "-": "‐‑‒–—―−",
}  # fmt: skip
# letters in circles, squares and flags, which have no compatibility form of their own
_SIGNS = (0x1F150, 0x1F170, 0x1F1E6)
_BLANK = "\u2800"  # Braille without dots
_FILLERS = "\u115f\u1160\u3164\uffa0"  # letters by category, and invisible
_LETTERS = str.maketrans(
    {alike: letter for letter, several in _ALIKE.items() for alike in several}
    | {chr(first + place): chr(ord("A") + place) for first in _SIGNS for place in range(26)}
    | dict.fromkeys(_FILLERS)
    | {_BLANK: " "}
)
# accents and the like; the vowel signs of other scripts are marks, too, and stay
_MARKS = re.compile(
    "[\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe00-\ufe0f\ufe20-\ufe2f\U000e0100-\U000e01ef]"
)
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]")
# conjoining Korean letters are left out: joined, they would become one
_LETTER = r"[^\W\d_\u1100-\u11ff]"
_SPACED = re.compile(rf"(?<![^\W_]){_LETTER}([ .*_-]){_LETTER}(?![^\W_])(?:\1{_LETTER}(?![^\W_]))+")
# any other sign between single letters, or around a blank between words ("o/f/ /t/h/e"); three may be a list ("a/b/c")
_SIGN = r"([^\w\s]|[\d_])"
_SEPARATED = re.compile(rf"(?<![^\W_]){_LETTER}{_SIGN}(?:\s+\1)?{_LETTER}(?:\1(?:\s+\1)?{_LETTER}){{2,}}(?![^\W_])")


def normalise(text: str, *, fold_case: bool = True) -> str:
    """``text`` with what only changes its look taken away; to normalise twice changes nothing more.

    Compatibility forms (full width, mathematical, circled letters, ligatures) become plain letters; invisible
    characters and accents go; look-alikes of Latin letters (Cyrillic, Greek, Armenian, Cherokee, small capitals) become
    these, in words of their own script, too; quotation marks and dashes have one form each; three or more single
    letters with a space, dot, hyphen, underscore or star between each two become a word (``H a r r y``: ``harry``), and
    four or more with any other sign or digit (``H/a/r/r/y``); every run of white space is one space; letter case is
    folded, unless ``fold_case`` is False.
    """
    if not text.isascii():
        text = _plain_letters(text)
        if fold_case:  # folded letters may be look-alikes in turn
            text = _plain_letters(text.casefold())
    if fold_case:
        text = text.casefold()
    text = _CONTROLS.sub(" ", text)
    while (joined := _closed(text)) != text:
        text = joined
    return unicodedata.normalize("NFC", text)


def _closed(text: str) -> str:
    """Single letters joined, then gaps closed: a wider gap between spaced words keeps them apart."""
    return " ".join(_SEPARATED.sub(_joined, _SPACED.sub(_joined, text)).split())


def _plain_letters(text: str) -> str:
    text = _MARKS.sub("", unicodedata.normalize("NFKD", text))
    text = "".join(character for character in text if unicodedata.category(character) != "Cf")
    return unicodedata.normalize("NFC", text.translate(_LETTERS))


def _joined(match: re.Match[str]) -> str:
    sign = match[1]
    if unicodedata.category(sign).startswith("M"):  # vowel signs of other scripts are part of their letters
        return match[0]
    return " ".join(part.replace(sign, "") for part in re.split(rf"{re.escape(sign)}\s+{re.escape(sign)}", match[0]))
