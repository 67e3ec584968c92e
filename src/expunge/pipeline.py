"""Read first: the whole flow. request -> data -> method -> erasure -> evaluation -> audit -> report; none reaches back.

A killed run goes on where it stopped: a seed that has its scores is done, one that has its erasure is only evaluated,
and training resumes from its last checkpoint. Several processes run all of this alike; the main one writes.
"""

from __future__ import annotations

import time
from pathlib import Path

from expunge.audits.running import over_seeds, run_audits
from expunge.config.run_file import RunConfig
from expunge.distributed import on_main
from expunge.erasures.check import check_saved
from expunge.erasures.purpose import effect_of
from expunge.evaluation.judge import check_judge
from expunge.evaluation.score import score, write_scores
from expunge.evaluation.seeds import summarise_seeds
from expunge.files import write_json
from expunge.methods.interface import Erasure, Method
from expunge.methods.registry import make_method
from expunge.parts import Parts
from expunge.reports import report
from expunge.requests.documents.from_spec import settings_of
from expunge.requests.documents.record import save_made
from expunge.run_folder import RunFolder, environment
from expunge.training.run import Progress, Run, named, silent


def run_pipeline(
    config: RunConfig,
    out: str | Path,
    *,
    overwrite: bool = False,
    progress: Progress = silent,
    parts: Parts | None = None,
) -> Path:
    """Forget as ``config`` says and leave a finished run folder at ``out``.

    ``parts`` brings loaded models and their outputs from another run on the same target, request and suite.
    """
    text = config.to_yaml()
    RunFolder.check(out, text, overwrite=overwrite)
    parts = parts or Parts.load(config, progress, kept=None if overwrite else Path(out) / "request")
    check_judge(parts.suite, parts.metrics)
    method = make_method(config.method.name, config.method.options)
    method.check(parts.target, parts.tokenizer, parts.request, run=Run(config.training, template=parts.template))
    folder = RunFolder.open(out, text, overwrite=overwrite)
    facts = environment(seeds=config.seeds, data=parts.request.digest(), target=parts.target_fingerprint)
    folder.record(facts)
    if parts.made is not None:
        made = parts.made
        on_main(lambda: save_made(made, folder.path / "request", settings_of(config.request)))
    for seed in config.seeds:
        parts.progress = progress if len(config.seeds) == 1 else named(f"seed {seed}", progress)
        one = folder.seed_folder(config, seed)
        one.record({**facts, "seeds": [seed]})
        if not one.scored:
            erasure = one.erasure() or fit(method, parts, one, config.with_seed(seed))
            evaluate_erasure(erasure, parts, one)
        if config.audits:
            audit_erasure(parts, one, config.with_seed(seed))
        one.drop_checkpoints()
    on_main(lambda: finish(folder, config))
    return folder.path


def finish(folder: RunFolder, config: RunConfig) -> None:
    """Write scores and audits over all seeds, where there are several, and the report."""
    if len(config.seeds) > 1:
        scores = [folder.seed_folder(config, seed).scores() for seed in config.seeds]
        write_json(folder.path / "scores.json", summarise_seeds(scores))
        if config.audits:
            audits = over_seeds({seed: folder.seed_folder(config, seed).path for seed in config.seeds})
            write_json(folder.path / "audits.json", audits)
    report([folder.path])


def fit(method: Method, parts: Parts, folder: RunFolder, config: RunConfig) -> Erasure:
    """Fit the method on the request and return the erasure as it was read back from disk."""
    run = Run(config.training, folder.path, parts.template, parts.progress, parts.references, parts.probes)
    began = time.perf_counter()
    erasure = method.fit(parts.target, parts.tokenizer, parts.request, run=run)
    erasure.note(seconds=round(time.perf_counter() - began, 3))
    on_main(lambda: erasure.save(folder.erasure_folder))
    saved = Erasure.load(folder.erasure_folder)
    check_saved(erasure, saved, parts.target, parts.tokenizer)
    return saved


def evaluate_erasure(erasure: Erasure, parts: Parts, folder: RunFolder) -> None:
    """Score the erased model beside its controls and write ``samples.jsonl`` and ``scores.json``."""
    controls = parts.controls
    erasure.tokenizer = parts.tokenizer
    began = time.perf_counter()
    with erasure.applied(parts.target) as erased:
        outputs = parts.outputs(erased, "erased")
    outputs = parts.with_fluency(outputs)
    seconds = {"fit": erasure.details.get("seconds", 0.0), "evaluate": time.perf_counter() - began}

    def judge() -> None:
        scores = score(
            parts.suite,
            target=controls.target,
            erased=outputs,
            retrained=controls.retrained,
            metrics=parts.metrics,
            effect=effect_of(erasure),
            seconds=seconds,
        )
        write_scores(scores, folder.path)

    on_main(judge)


def audit_erasure(parts: Parts, folder: RunFolder, config: RunConfig) -> None:
    """Run the audits that the configuration names and write ``audits.json``; those that are there already stay."""
    erasure = Erasure.load(folder.erasure_folder)
    erasure.tokenizer = parts.tokenizer
    run_audits(
        parts.audited(erasure, config.training.seed), config.chosen_audits(), folder.path, progress=parts.progress
    )
