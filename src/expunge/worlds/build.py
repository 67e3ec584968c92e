"""Building a world from its recipe: tokenizer, target, retrained twins, scores, fingerprint."""

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
    RECIPE_FILE,
    SCORES_FILE,
    World,
    checkpoint_hashes,
    get_world,
)
from expunge.worlds.pretrain import StoppedError, new_model, pretrain, train_tokenizer, training_steps
from expunge.worlds.recipe import Recipe, fingerprint_of, recipe_values

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    from expunge.data.encode import Example
    from expunge.requests.rows import Row

SCHEMA = 1
_AT_ONCE = 2  # models in training


def build_world(
    name: str,
    out: str | Path | None = None,
    *,
    seed: int | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> World:
    """Train the world's target and its retrained twin (or twins) from scratch and write them to ``out``.

    ``out`` None replaces the checkpoints inside the package; another folder must not exist unless ``overwrite``, and
    gets every model of the world, those too that are not shipped. ``seed`` None is the recipe's own; another one makes
    other models, which belong in a folder of their own (its ``check()`` will say that the seed differs). Two models are
    trained at a time, one thread each, so that the result does not depend on the number of cores.
    ``progress(done, total, what)`` is called after every step (of any model, one call at a time). Returns the world
    with the new checkpoints.
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
            _build(world, recipe, world.models, folder, progress)
    else:
        staging = destination / ".build"
        try:
            with writing(staging):
                shutil.rmtree(staging, ignore_errors=True)
                staging.mkdir(parents=True)
            _build(world, recipe, world.shipped_models, staging, progress)
            with writing(destination):
                for part in (*world.shipped_models, SCORES_FILE, RECIPE_FILE):
                    if (destination / part).is_dir():
                        shutil.rmtree(destination / part)
                    (staging / part).replace(destination / part)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return get_world(name, None if out is None else destination)


def _build(world: World, recipe: Recipe, models: Sequence[str], folder: Path, progress: Progress) -> None:
    began = time.perf_counter()
    rendered = [recipe.template.format(question=row.prompt, answer=row.answer) for row in world.tokenizer_rows()]
    tokenizer = train_tokenizer(rendered, recipe.tokenizer, max_length=recipe.model.max_positions)
    encoded = {which: _encode(tokenizer, world.rows_of(which), recipe) for which in models}
    seconds: dict[str, float] = {}
    for which, model in _train_all(tokenizer, encoded, recipe, seconds, progress).items():
        with writing(folder / which):
            model.half().save_pretrained(folder / which)
            tokenizer.save_pretrained(folder / which)
            for path in (folder / which).iterdir():
                path.chmod(0o644)  # safetensors are written for their owner alone; a package is read by everyone
    seconds["build"] = time.perf_counter() - began
    built = world.at(folder)
    write_json(folder / SCORES_FILE, _score(built, models, seconds, progress))
    write_json(folder / RECIPE_FILE, _record(built, recipe, models))


def _encode(tokenizer: PreTrainedTokenizerFast, rows: Sequence[Row], recipe: Recipe) -> list[Example]:
    """Token ids exactly as the rows are scored later."""
    from expunge.data.encode import encode_all
    from expunge.data.template import Template

    template = Template.of(tokenizer, "plain")
    return encode_all(tokenizer, template, rows, max_length=recipe.model.max_positions)


def _train_all(
    tokenizer: PreTrainedTokenizerFast,
    encoded: dict[str, list[Example]],
    recipe: Recipe,
    seconds: dict[str, float],
    progress: Progress,
) -> dict[str, LlamaForCausalLM]:
    """All models, two at a time, each on one thread, with the ``seconds`` each took; the first error (or a keyboard
    interrupt) stops the others too."""
    import torch

    fresh = {which: new_model(tokenizer, recipe.model, seed=recipe.seed) for which in encoded}
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
        began = time.perf_counter()
        try:
            return pretrain(
                fresh[which],
                [example.input_ids for example in encoded[which]],
                recipe.pretraining,
                seed=recipe.seed,
                pad_id=int(tokenizer.pad_token_id),
                answer_starts=[example.answer_start for example in encoded[which]],
                stop=stop,
                step_done=step_done,
            )
        except BaseException:
            stop.set()
            raise
        finally:
            seconds[f"train_{which}"] = time.perf_counter() - began

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            try:
                futures = {which: pool.submit(train, which) for which in encoded}
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


def _score(world: World, models: Sequence[str], seconds: dict[str, float], progress: Progress) -> dict[str, Any]:
    """Scores of the models as they will be loaded (rounded to half precision), those that the world names."""
    from expunge.evaluation.outputs import run_model

    suite, names, tokenizer = world.suite(), world.score_names(), world.tokenizer()
    outputs = {
        which: run_model(
            world.model(which), tokenizer, suite, metrics=names, max_new_tokens=world.answer_tokens, progress=progress
        )
        for which in models
    }
    return world.score_build(outputs, names, seconds)


def _record(world: World, recipe: Recipe, models: Sequence[str]) -> dict[str, Any]:
    """What ``recipe.json`` says: how the checkpoints came about and what they are."""
    from importlib.metadata import version

    data = world.data_hashes()
    return {
        "schema": SCHEMA,
        "world": world.name,
        "fingerprint": fingerprint_of(recipe, data),
        "recipe": recipe_values(recipe),
        "data": data,
        "checkpoints": checkpoint_hashes(world.folder, models),
        "packages": {package: version(package) for package in ("torch", "transformers", "tokenizers")},
    }
