"""``expunge train``: fine-tune a target, or its retrained twin, with the same loop that unlearns."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.config.run_file import ModelSpec, make_section
from expunge.config.values import merged, parse_overrides, to_yaml
from expunge.distributed import on_main
from expunge.errors import ConfigError
from expunge.files import writing
from expunge.run_folder import RunFolder, environment
from expunge.training.run import Progress, silent
from expunge.training.settings import TrainingSettings

if TYPE_CHECKING:
    from expunge.requests.responses import Responses

_SECTIONS = ("model", "training")


def train(
    model: str,
    data: str | Iterable[str],
    *,
    out: str | Path,
    columns: Mapping[str, str] | None = None,
    template: str = "auto",
    responses: Responses | None = None,
    overrides: Iterable[str] = (),
    overwrite: bool = False,
    progress: Progress = silent,
) -> Path:
    """Fine-tune ``model`` on the rows of one or several files; ``out`` becomes a folder that ``from_pretrained`` loads.

    Trained on forget and retain rows this makes a target, on the retain rows alone its retrained twin. An epoch is one
    pass over the rows, ``training.retain_batch`` rows a forward. ``responses`` says which responses of safety sets are
    meant, safe or unsafe ones; other rows are taken all. A killed run resumes when the same command is given again.
    """
    files = [data] if isinstance(data, str) else list(data)
    if template not in ("auto", "chat", "plain"):
        raise ConfigError(f"template={template!r}: expected auto, chat or plain.")
    if responses not in (None, "safe", "unsafe"):
        raise ConfigError(f"responses={responses!r}: expected safe or unsafe.")
    values = merged({"model": {"path": model}, "training": {}}, parse_overrides(overrides))
    unknown = [name for name in values if name not in _SECTIONS]
    if unknown:
        raise ConfigError(
            f"{', '.join(unknown)}: expunge train takes settings of the sections {' and '.join(_SECTIONS)} only."
        )
    spec = make_section(ModelSpec, values["model"], "model")
    settings = make_section(TrainingSettings, values["training"], "training")
    if spec.quantization != "none":
        raise ConfigError(
            f"model.quantization={spec.quantization}: expunge train writes a whole checkpoint, which training on "
            "rounded weights does not give. Train without it."
        )
    record: dict[str, Any] = {
        "model": spec.model_dump(mode="json"),
        "data": {"files": files, "columns": dict(columns or {}), "template": template},
        "training": settings.model_dump(mode="json"),
    }
    if responses is not None:
        record["data"]["responses"] = responses
    text, kept = to_yaml(record), {"overwrite": overwrite, "run_name": "train.yaml", "last": "config.json"}
    RunFolder.check(out, text, **kept)  # type: ignore[arg-type]

    from expunge.requests.request import load_rows, rows_sha256

    rows = tuple(
        row for file in files for row in load_rows(file, name=Path(file).name, columns=columns, responses=responses)
    )
    progress(0, 1, "loading")
    from expunge.commands.export import write_checkpoint
    from expunge.methods.weights.finetune import Finetune
    from expunge.models.fingerprint import fingerprint
    from expunge.models.loading import load_model, load_tokenizer
    from expunge.training.fit import fit_weights
    from expunge.training.run import Run

    tokenizer, base = load_tokenizer(spec), load_model(spec)
    folder = RunFolder.open(out, text, **kept)  # type: ignore[arg-type]
    folder.record(
        environment(
            seeds=(settings.seed,),
            data={"train": {"rows": len(rows), "sha256": rows_sha256(rows)}},
            target=fingerprint(base, tokenizer).as_dict(),
        )
    )
    run = Run(settings, folder.path, template, progress)  # type: ignore[arg-type]
    change = fit_weights(Finetune(), base, tokenizer, forget=(), retain=rows, run=run, lead="retain")
    staged = folder.path / ".model"

    def write() -> None:
        write_checkpoint(base, tokenizer, change, staged)
        with writing(folder.path):
            # config.json last: its presence says that the model is whole
            for file in sorted(staged.iterdir(), key=lambda path: path.name == "config.json"):
                file.replace(folder.path / file.name)
            shutil.rmtree(staged)

    on_main(write)
    folder.drop_checkpoints()
    return folder.path
