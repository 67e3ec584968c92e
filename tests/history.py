"""Reading the training log as other tools do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_history(folder: Path) -> list[dict[str, Any]]:
    """The lines of ``training.jsonl``; NaN and infinity, which are not JSON, are refused."""

    def refuse(token: str) -> Any:
        raise ValueError(f"{token} is not JSON")

    text = (folder / "training.jsonl").read_text(encoding="utf-8")
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]
