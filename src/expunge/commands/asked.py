"""What ``expunge evaluate`` is asked for, whatever kind of models it is given: a suite, tasks, where to write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.config.run_file import NamedSpec, RequestSpec, make_section
from expunge.config.values import merged, parse_overrides, to_yaml
from expunge.errors import ConfigError, did_you_mean
from expunge.run_folder import RunFolder
from expunge.training.run import Progress
from expunge.training.settings import TrainingSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from expunge.evaluation.harness import Harness
    from expunge.evaluation.suite import Suite
    from expunge.requests import Request

_SECTIONS = ("model", "request", "training", "suite", "retrained", "harness")
_MISSING = {
    "harness": "no tasks were named that it is about. Pass them: --tasks NAMES (in Python tasks=).",
    "suite": "tasks were named and no suite, so there is none to set. Pass one too: --suite NAME (in Python suite=).",
}


@dataclass(frozen=True)
class Asked:
    """What :func:`~expunge.commands.evaluate.evaluate` is asked for, whatever kind of models it is given."""

    suite: Suite | str | None
    request: Mapping[str, Any] | Request | None
    metrics: tuple[str, ...] | None
    out: str | Path | None
    overrides: tuple[str, ...]
    overwrite: bool
    progress: Progress
    tasks: tuple[str, ...] = ()
    tasks_path: str | None = None
    evalplus: Path | None = None

    @property
    def chosen(self) -> dict[str, Any]:
        """The sections of what is scored: a suite that was named, tasks."""
        suite = {"suite": {"name": self.suite}} if isinstance(self.suite, str) else {}
        tasks = {"harness": {"tasks": list(self.tasks), "path": self.tasks_path}} if self.tasks else {}
        return {**suite, **tasks}

    @property
    def rows(self) -> Request | None:
        """The request where it was passed as an object and not as the files of one."""
        return None if self.request is None or isinstance(self.request, Mapping) else self.request

    def sections(self, **values: Any) -> dict[str, Any]:
        """The values of the sections that apply, with the overrides on top."""
        request = dict(self.request) if isinstance(self.request, Mapping) else {}
        values = {"request": request, "training": {}, **values}
        given = parse_overrides(self.overrides)
        for name in given:
            if name not in _SECTIONS:
                raise ConfigError(f"{name}: expunge evaluate has no such section. {did_you_mean(name, _SECTIONS)}")
            if name not in values:
                loaded = "it was passed loaded, so no setting can change it. Set it up, or pass a path or a name."
                missing = name == "harness" or (name == "suite" and self.suite is None)
                raise ConfigError(f"{name}: {_MISSING[name] if missing else loaded}")
        return merged(values, given)

    def check(self) -> None:
        """Refuse options of a suite where none is run, and of tasks where none are."""
        if self.tasks_path is not None and not self.tasks:
            raise ConfigError(f"the folder of tasks {self.tasks_path} was named and no task. Name some: --tasks NAMES.")
        if self.suite is not None:
            return
        files = self.request if isinstance(self.request, Mapping) else {"rows": self.request}
        parts = ("forget", "retain", "neighbours", "holdout", "probes", "documents", "world", "rows")
        given = {f"request ({part})": files.get(part) for part in parts} | {"metrics": self.metrics}
        unused = [name for name, value in (given | {"evalplus": self.evalplus}).items() if value is not None]
        if unused:
            raise ConfigError(
                f"{', '.join(unused)}: only a suite reads that, and tasks were named without one. Name one too "
                "(--suite request), or leave it out."
            )

    def suite_section(self, values: Mapping[str, Any]) -> NamedSpec:
        """The section ``suite``; where tasks alone are run, one that says so."""
        from expunge.evaluation.harness import SUITE

        return make_section(NamedSpec, values.get("suite", {"name": SUITE}), "suite")

    def build_suite(self, section: NamedSpec, request: Request | None) -> tuple[Suite, tuple[str, ...] | None]:
        """The suite, without a set where tasks alone are run, and the scores that its section names."""
        from expunge.evaluation.suite import Suite
        from expunge.parts import build_suite

        return build_suite(section, request) if self.suite is not None else (Suite(section.name, {}, {}), None)

    def harness(self, values: Mapping[str, Any]) -> Harness | None:
        """The harness with its tasks, where some were named; what it lacks is said before a model is loaded."""
        from expunge.evaluation.harness import Harness, HarnessSettings

        return Harness(HarnessSettings.of(values["harness"])) if self.tasks else None

    def load_request(self, spec: RequestSpec, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Request | None:
        """The request as passed or as its files say, with long documents in pieces; None where none was named."""
        from expunge.parts import fit_to, load_request

        named_rows = any(source is not None for source in (spec.forget, spec.world, spec.documents))
        if self.rows is not None and named_rows:
            raise ConfigError(
                "request= was passed with its rows, and the overrides name row files too. Pass one of them."
            )
        request = self.rows or (load_request(spec) if named_rows else None)
        return None if request is None else fit_to(request, tokenizer, max_length)

    def run_file(
        self, *, request: RequestSpec, training: TrainingSettings, harness: Harness | None, **sections: Any
    ) -> str:
        """The text of ``run.yaml``: all that decides the scores."""
        rows = {} if self.rows is None else {"rows": self.rows.digest()}
        record = {
            "model": sections.pop("model"),
            "request": {**request.model_dump(mode="json"), **rows},
            "training": training.model_dump(mode="json"),
            **sections,
            "metrics": None if self.metrics is None else list(self.metrics),
            **({} if harness is None else {"harness": harness.settings.model_dump(mode="json")}),
        }
        return to_yaml(record)

    def check_out(self, text: str) -> None:
        """Refuse a folder that this run may not write to, before anything is loaded."""
        if self.out is not None:
            RunFolder.check(self.out, text, overwrite=self.overwrite)

    def check_evalplus(self, suite: Suite, metrics: Sequence[str] | None) -> None:
        """Refuse a suite without code answers, and a folder that has some already."""
        from expunge.evaluation.code_answers import check_evalplus

        if self.evalplus is not None:
            check_evalplus(suite, metrics, self.evalplus, overwrite=self.overwrite)

    def open_out(self, text: str) -> RunFolder | None:
        """The folder to write to; asked for once everything has been loaded."""
        return None if self.out is None else RunFolder.open(self.out, text, overwrite=self.overwrite)
