"""The text of HTML and Markdown, without what only lays it out."""

from __future__ import annotations

import re
from html.parser import HTMLParser

_DROPPED = frozenset(
    {"script", "style", "noscript", "template", "svg", "iframe", "nav", "button", "select", "textarea"}
)
_BLOCKS = frozenset(
    {"address", "article", "aside", "blockquote", "body", "caption", "dd", "div", "dl", "dt", "figcaption", "figure"}
    | {"footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "html", "li", "main", "ol", "p", "pre"}
    | {"section", "table", "tbody", "tfoot", "thead", "tr", "ul"}
)
_SPACE = re.compile(r"\s+")
_FOOTNOTE = re.compile(r"\[(?:\d+|[a-z]|citation needed|note \d+)\]")
_FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
_FENCE = re.compile(r"^(```|~~~).*?^\1[^\n]*$", re.DOTALL | re.MULTILINE)
_HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$", re.MULTILINE)
_UNMARKED = (
    (re.compile(r"<!--.*?-->", re.DOTALL), ""),
    (re.compile(r"!\[[^\]]*\]\([^)]*\)"), ""),  # pictures
    (re.compile(r"\[([^\]]+)\]\([^)]*\)"), r"\1"),  # links
    (re.compile(r"(\*\*|__)(?=\S)(.+?)(?<=\S)\1"), r"\2"),
    (re.compile(r"(?<![\w*])\*(?=\S)([^*\n]+?)(?<=\S)\*(?![\w*])"), r"\1"),
    (re.compile(r"(?<![\w_])_(?=\S)([^_\n]+?)(?<=\S)_(?![\w_])"), r"\1"),
    (re.compile(r"`([^`\n]+)`"), r"\1"),
    (re.compile(r"^[ \t]{0,3}(?:>[ \t]?|[-*+][ \t]+|\d+[.)][ \t]+(?=\S))", re.MULTILINE), ""),
)


def from_html(page: str) -> tuple[str, str]:
    """Text and title of a page: a paragraph for each block, no scripts, styles, menus and footnote marks."""
    parser = _Text()
    parser.feed(page)
    parser.close()
    paragraphs = [" ".join(part.split()) for part in "".join(parser.parts).split("\n\n")]
    text = "\n\n".join(part for part in paragraphs if part)
    return _FOOTNOTE.sub("", text), "".join(parser.title) or "".join(parser.heading)


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.title: list[str] = []
        self.heading: list[str] = []  # the first one
        self._dropping: list[str] = []
        self._in = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        if tag in _DROPPED:
            self._dropping.append(tag)
        elif tag in _BLOCKS:
            self.parts.append("\n\n")
        elif tag in ("br", "td", "th"):
            self.parts.append(" ")
        if tag == "title" or (tag == "h1" and not self.heading):
            self._in = tag

    def handle_endtag(self, tag: str) -> None:
        if tag in self._dropping:
            while self._dropping.pop() != tag:
                pass
        elif tag in _BLOCKS:
            self.parts.append("\n\n")
        if tag == self._in:
            self._in = ""

    def handle_data(self, data: str) -> None:
        if self._dropping:
            return
        if self._in == "title":
            self.title.append(data)
            return
        if self._in == "h1":
            self.heading.append(data)
        self.parts.append(_SPACE.sub(" ", data))


def from_markdown(text: str) -> tuple[str, str]:
    """Text and first heading; marks of headings, lists, quotes, links and emphasis go, code blocks whole."""
    text = _FRONT_MATTER.sub("", text.replace("\r\n", "\n"))
    text = _FENCE.sub("", text)
    heading = _HEADING.search(text)
    text = _HEADING.sub(r"\n\1\n", text)
    for pattern, kept in _UNMARKED:
        text = pattern.sub(kept, text)
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n"), heading[1] if heading else ""
