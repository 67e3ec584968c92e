"""Building a world from its recipe: tokenizer, target, retrained twin, scores, fingerprint."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.errors import ConfigError, OutputError
from expunge.files import new_folder, write_json, writing
from expunge.training.run import Progress, silent
from expunge.worlds.interface import (
    MODELS,
    RECIPE_FILE,
    SCORES_FILE,
    World,
    checkpoint_hashes,
    get_world,
)
from expunge.worlds.pretrain import StoppedError, new_model, pretrain, train_tokenizer, training_steps
from expunge.worlds.recipe import Recipe, data_hashes, fingerprint, recipe_values

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    from expunge.requests.rows import Row

SCHEMA = 1


def build_world(
    name: str,
    out: str | Path | None = None,
    *,
    seed: int | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> World:
    """Train the world's target and retrained twin from scratch and write them to ``out``.

    ``out`` None replaces the checkpoints inside the package; another folder must not exist unless ``overwrite``.
    ``seed`` None is the recipe's own; another one makes another pair of models, which belongs in a folder of its own
    (its ``check()`` will say that the seed differs). Both models are trained at the same time, one thread each, so
    that the result does not depend on the number of cores. ``progress(done, total, what)`` is called after every
    step (of either model, one call at a time). Returns the world with the new checkpoints.
    """
    world = get_world(name)
    recipe = world.recipe if seed is None else replace(world.recipe, seed=seed)
    destination = world.folder if out is None else Path(out).expanduser()
    if out is None and recipe.seed != world.recipe.seed:
        raise ConfigError(
            f"world '{name}': seed {seed} is not the recipe's ({world.recipe.seed}), so its checkpoints cannot "
            "stand inside the package. Pass a folder to write them to."
        )
    if out is not None and destination.exists() and not overwrite:
        raise OutputError(f"{destination} exists. Choose another folder or allow overwriting it.")
    if out is not None:
        with new_folder(destination) as folder:
            _build(world, recipe, folder, progress)
    else:
        staging = destination / ".build"
        try:
            with writing(staging):
                shutil.rmtree(staging, ignore_errors=True)
                staging.mkdir()
            _build(world, recipe, staging, progress)
            with writing(destination):
                for part in (*MODELS, SCORES_FILE, RECIPE_FILE):
                    if (destination / part).is_dir():
                        shutil.rmtree(destination / part)
                    (staging / part).replace(destination / part)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return get_world(name, None if out is None else destination)


def _build(world: World, recipe: Recipe, folder: Path, progress: Progress) -> None:
    began = time.perf_counter()
    rendered = [recipe.template.format(question=row.prompt, answer=row.answer) for row in world.tokenizer_rows()]
    tokenizer = train_tokenizer(rendered, recipe.tokenizer, max_length=recipe.model.max_positions)
    rows = {which: world.training_rows(retrained=which == "retrained") for which in MODELS}
    encoded = {which: _encode(tokenizer, rows[which], recipe) for which in MODELS}
    models = _train_both(tokenizer, encoded, recipe, progress)
    for which, model in models.items():
        with writing(folder / which):
            model.half().save_pretrained(folder / which)
            tokenizer.save_pretrained(folder / which)
            for path in (folder / which).iterdir():
                path.chmod(0o644)  # safetensors are written for their owner alone; a package is read by everyone
    seconds = time.perf_counter() - began
    _score(type(world)(folder), seconds, folder / SCORES_FILE, progress)
    write_json(folder / RECIPE_FILE, _record(world, recipe, folder))


def _encode(tokenizer: PreTrainedTokenizerFast, rows: Sequence[Row], recipe: Recipe) -> list[list[int]]:
    """Token ids exactly as the rows are scored later."""
    from expunge.data.encode import encode_all
    from expunge.data.template import Template

    template = Template.of(tokenizer, "plain")
    examples = encode_all(tokenizer, template, rows, max_length=recipe.model.max_positions)
    return [example.input_ids for example in examples]


def _train_both(
    tokenizer: PreTrainedTokenizerFast,
    encoded: dict[str, list[list[int]]],
    recipe: Recipe,
    progress: Progress,
) -> dict[str, LlamaForCausalLM]:
    """Both models at once, each on one thread; the first error (or a keyboard interrupt) stops the other too."""
    import torch

    fresh = {which: new_model(tokenizer, recipe.model, seed=recipe.seed) for which in MODELS}
    stop = threading.Event()
    counting = threading.Lock()
    done, total = 0, sum(training_steps(len(rows), recipe.pretraining) for rows in encoded.values())

    def step_done() -> None:
        nonlocal done
        with counting:
            done += 1
            progress(done, total, "training target and retrained twin")

    def train(which: str) -> LlamaForCausalLM:
        torch.set_num_threads(1)
        try:
            return pretrain(
                fresh[which],
                encoded[which],
                recipe.pretraining,
                seed=recipe.seed,
                pad_id=int(tokenizer.pad_token_id),
                stop=stop,
                step_done=step_done,
            )
        except BaseException:
            stop.set()
            raise

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(len(MODELS)) as pool:
            try:
                futures = {which: pool.submit(train, which) for which in MODELS}
                wait(futures.values())
            finally:
                stop.set()
        failures = [error for future in futures.values() if (error := future.exception()) is not None]
        if failures:
            # What went wrong, rather than what was stopped because of it.
            raise min(failures, key=lambda error: isinstance(error, StoppedError))
        return {which: future.result() for which, future in futures.items()}
    finally:
        torch.set_num_threads(threads)


def _score(world: World, seconds: float, path: Path, progress: Progress) -> None:
    """Scores of the models as they will be loaded (rounded to half precision), those that the world names."""
    from expunge.evaluation.outputs import run_model
    from expunge.evaluation.score import score

    suite, names, tokenizer = world.suite(), world.score_names(), world.tokenizer()
    outputs = [
        run_model(model, tokenizer, suite, metrics=names, progress=progress)
        for model in (world.target(), world.retrained())
    ]
    scores = score(suite, target=outputs[0], retrained=outputs[1], metrics=names, seconds={"build": seconds})
    write_json(path, scores.to_json())


def _record(world: World, recipe: Recipe, folder: Path) -> dict[str, Any]:
    """What ``recipe.json`` says: how the checkpoints came about and what they are."""
    from importlib.metadata import version

    return {
        "schema": SCHEMA,
        "world": world.name,
        "fingerprint": fingerprint(recipe, world.data_folder),
        "recipe": recipe_values(recipe),
        "data": data_hashes(world.data_folder, recipe.files),
        "checkpoints": checkpoint_hashes(folder),
        "packages": {package: version(package) for package in ("torch", "transformers", "tokenizers")},
    }
