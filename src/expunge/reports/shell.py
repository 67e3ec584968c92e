"""What every page has in common: head, style, scripts, its policy, and how it is written."""

from __future__ import annotations

import base64
import hashlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from expunge.errors import OutputError
from expunge.reports.payload import to_script

# Plotly sets styles on its elements; scripts run by hash alone, so that text from a model can never run.
_POLICY = "style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def fill(template: str, scripts: Iterable[str], data: Any, **values: Any) -> str:
    """A page as text: ``template``, which extends ``shell.html.j2``, filled with ``values``.

    ``scripts`` are files beside it, which run after Plotly and read ``data`` as JSON. The content security policy
    allows the page's own scripts by their hashes and no request.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    import expunge

    loader = PackageLoader("expunge.reports", "templates")
    environment = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )

    def source(name: str) -> str:
        return loader.get_source(environment, name)[0]

    inlined = [_inline(get_plotlyjs()), *(_inline(source(name)) for name in scripts)]
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in inlined)
    return environment.get_template(template).render(
        policy=f"default-src 'none'; script-src {hashes}; {_POLICY}",
        style=Markup(source("page.css")),
        scripts=[Markup(script) for script in inlined],
        data=Markup(to_script(data)),
        version=getattr(expunge, "__version__", ""),
        **values,
    )


def _inline(script: str) -> str:
    """A script that may stand inside an HTML page: line ends as the browser hashes them, no end tag, no
    comment."""
    script = script.replace("\r\n", "\n").replace("\r", "\n")
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def write_page(path: Path, text: str) -> None:
    """Write beside the page and move into place. Lone surrogates in model output become question marks."""
    temporary: Path | None = None
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            file.write(text.encode("utf-8", errors="replace"))
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        reason = error.strerror or error
        raise OutputError(
            f"The report cannot be written to '{path}': {reason}. "
            "Choose a folder that exists and can be written: --out."
        ) from error
