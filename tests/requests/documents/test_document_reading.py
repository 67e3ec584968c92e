"""Protects the reading of documents: each file type, encodings, and one error that names every bad file."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import pytest

from expunge.errors import RequestError
from expunge.requests.documents.markup import from_html, from_markdown
from expunge.requests.documents.reading import Document, read_documents


def write(folder: Path, **files: str | bytes) -> Path:
    for name, content in files.items():
        path = folder / name.replace("__", ".")
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def problems(source: Path, **columns: str) -> str:
    with pytest.raises(RequestError) as caught:
        read_documents(source, columns)
    return str(caught.value)


def test_a_folder_gives_its_documents_in_the_order_of_their_names(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    write(tmp_path / "below", d__txt="Four.")
    write(tmp_path, a__txt="\ufeffOne.\r\nTwo.", b__md="# Title\n\nA *word*.", README__md="not a document")
    write(tmp_path, c__html="<title>Page</title><p>Three.</p>", __hidden__txt="no")
    lines = [{"passage": "Five.", "title": "T"}, {"passage": "Six."}]
    write(tmp_path, e__jsonl="\n".join(map(json.dumps, lines)))
    assert read_documents(tmp_path) == (
        Document("One.\nTwo.", "a.txt"),
        Document("Title\n\nA word.", "b.md", "Title"),
        Document("Four.", "below/d.txt"),
        Document("Three.", "c.html", "Page"),
        Document("Five.", "e.jsonl:1", "T"),
        Document("Six.", "e.jsonl:2"),
    )


def test_one_file_is_enough_and_columns_can_be_mapped(tmp_path: Path) -> None:
    write(tmp_path, a__jsonl=json.dumps({"story": "One.", "name": "N", "text": "no"}))
    assert read_documents(tmp_path / "a.jsonl", {"text": "story", "title": "name"}) == (
        Document("One.", "a.jsonl:1", "N"),
    )


def test_every_bad_file_is_named_at_once(tmp_path: Path) -> None:
    write(tmp_path, empty__txt=" \n", binary__txt=b"ab\0cd", latin__txt=b"ok\ncaf\xe9", wide__txt="x".encode("utf-16"))
    write(tmp_path, page__docx=b"PK", fake__txt=b"%PDF-1.7", markup__html="<script>x</script>", ok__txt="Fine.")
    write(tmp_path, rows__jsonl='{"question": "Q?", "answer": "A"}\n{"text": "fine"}\nnot json')
    found = problems(tmp_path)
    assert f"{tmp_path}: 9 cannot be used" in found
    # "ok\n" is 3 bytes and "caf" 3 more: the bad byte is the one at offset 6, on the second line
    assert "latin.txt: byte 0xe9 at offset 6 (line 2) is not UTF-8; convert it, such as with: iconv" in found
    assert "binary.txt: is binary (byte 0x00 at offset 2)" in found
    assert "wide.txt: is UTF-16 (byte 0xff at offset 0)" in found
    assert "empty.txt: is empty" in found
    assert "page.docx: .docx is not read, expected .txt .md .html .htm .pdf .jsonl" in found
    assert "fake.txt: is a PDF; name it .pdf" in found
    assert "markup.html: has no text" in found
    assert "rows.jsonl:1: none of the fields text, passage, document, content (fields found: question, answer)" in found
    assert "rows.jsonl:3: broken JSON" in found
    assert "ok.txt" not in found


def test_a_folder_that_is_not_there_or_empty(tmp_path: Path) -> None:
    assert "there is no file or folder" in problems(tmp_path / "nothing")
    assert "holds no files to read" in problems(tmp_path)


def test_an_html_page_may_declare_its_encoding(tmp_path: Path) -> None:
    page = '<meta charset="iso-8859-1"><p>Caf\u00e9.</p>'
    write(tmp_path, page__html=page.encode("latin-1"))
    assert read_documents(tmp_path)[0].text == "Caf\u00e9."


def test_what_only_lays_out_a_page_is_dropped() -> None:
    page = (
        "<html><head><title>A &amp; B</title><style>p {}</style></head><body><nav>Home</nav><h1>Head</h1>"
        "<p>One <b>bold</b>\n\nword.<sup>[1]</sup></p><script>var x = '<p>no</p>';</script><ul><li>Two<li>Three</ul>"
    )
    assert from_html(page) == ("Head\n\nOne bold word.\n\nTwo\n\nThree", "A & B")


def test_marks_of_markdown_are_dropped() -> None:
    text = "---\na: b\n---\n## Head ##\nA [link](x) and **two** `words`, not snake_case.\n\n- one\n\n```\ncode\n```\n"
    assert from_markdown(text)[0] == "Head\n\nA link and two words, not snake_case.\n\none"
    assert from_markdown(text)[1] == "Head"


def test_bytes_that_are_no_text_are_called_binary(tmp_path: Path) -> None:
    # 3 of 60 bytes are control characters, 5%; the accents of 20 latin words are none, and neither are tabs
    write(tmp_path, noise__txt=b"\x01\x02\x03" + b"a" * 50 + b"\xe9" * 7, words__txt=b"caf\xe9\t" * 20)
    found = problems(tmp_path)
    assert "noise.txt: is binary (3 of 60 bytes are control characters), expected text" in found
    assert "words.txt: byte 0xe9 at offset 3 (line 1) is not UTF-8" in found


def test_texts_damaged_before_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, a__txt="caf\ufffd and na\ufffdve", b__txt="Fine.", c__txt="\ufffd")
    assert len(read_documents(tmp_path)) == 3
    assert "3 characters (U+FFFD) were lost" in caplog.text
    assert "a.txt (2), c.txt (1). Convert the originals" in caplog.text


def test_text_of_a_pdf(tmp_path: Path) -> None:
    pytest.importorskip("pypdf")
    write(tmp_path, a__pdf=a_pdf("Ada Storm was born here."), b__pdf=b"%PDF-1.4 broken")
    assert "b.pdf: is not a readable PDF" in problems(tmp_path)
    (tmp_path / "b.pdf").unlink()
    assert read_documents(tmp_path) == (Document("Ada Storm was born here.", "a.pdf"),)
    write(tmp_path, a__pdf=a_pdf(""))
    assert "a.pdf: the PDF has no text on its 1 pages" in problems(tmp_path)


def test_without_pypdf_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, a__pdf=b"%PDF-1.4")
    plain = builtins.__import__

    def without(name: str, *args: Any, **named: Any) -> Any:
        if name == "pypdf":
            raise ImportError(name)
        return plain(name, *args, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    assert "pip install 'expunge[documents]'" in problems(tmp_path)


def a_pdf(text: str) -> bytes:
    """The smallest PDF with one line of text."""
    stream = f"BT /F1 12 Tf 20 100 Td ({text}) Tj ET".encode()
    parts = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 300 200] /Contents 4 0 R /Resources 6 0 R >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        b"<< /Font << /F1 5 0 R >> >>",
    ]
    out, places = b"%PDF-1.4\n", []
    for number, part in enumerate(parts, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, part)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    start = len(out)
    return out + b"xref\n0 7\n0000000000 65535 f \n%strailer << /Size 7 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % (
        table,
        start,
    )
