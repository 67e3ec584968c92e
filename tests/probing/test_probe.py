"""Protects the probe: what it reads, of which tokens, and that batches, padding and processes change nothing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import zoo
from expunge import distributed
from expunge.data.encode import encode_all
from expunge.data.template import Template
from expunge.errors import ConfigError, EncodingError, InputError, ModelError, UnknownNameError
from expunge.models.anatomy import decoder_layers
from expunge.models.roles import ROLES, Site, find_sites
from expunge.probing.probe import Probe
from expunge.probing.result import ProbeResult
from expunge.requests import Row
from fitting import rows, snapshot
from launching import launch

ROWS = (*rows(7, "forget"), Row("", "A document about the river.", "document", source="forget.jsonl:8"))
every_family = pytest.mark.parametrize("family", zoo.FAMILIES)


def run(probe: Probe, family: str = "llama", model: Any = None, some: Any = ROWS) -> ProbeResult:
    return probe.run(zoo.model(family) if model is None else model, zoo.tokenizer(family), some)


def same(one: ProbeResult, other: ProbeResult, *, error: float = 1e-4) -> None:
    """The statistics agree: forwards of other shapes round otherwise, by about 1e-6 of activations of about 1."""
    assert one.sites == other.sites
    for site in one.sites:
        assert one.count(site) == other.count(site)
        if one.count(site):
            for name in one.of(site).kept:
                if name != "squares":
                    found, wanted = (getattr(result.of(site), name) for result in (one, other))
                    torch.testing.assert_close(found, wanted, rtol=error, atol=2e-6)
        if one.count(site) > 1:
            torch.testing.assert_close(one.deviation(site), other.deviation(site), rtol=error, atol=2e-6)


@torch.no_grad()
def tokens_of(family: str, model: Any) -> list[tuple[Tensor, int]]:
    """Per row: [S, H] the output of layer 0, by transformers' own records, and where the answer begins."""
    tokenizer = zoo.tokenizer(family)
    found = []
    for example in encode_all(tokenizer, Template.of(tokenizer), ROWS, max_length=512):
        output = model(torch.tensor([example.input_ids]), output_hidden_states=True, use_cache=False)
        found.append((output.hidden_states[1][0].double(), example.answer_start))
    return found


@pytest.mark.parametrize("part", ["prompt", "answer", "all"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
def test_each_part_and_pooling_by_hand(family: str, part: Any) -> None:
    model = zoo.model(family)
    pieces = []
    for states, start in tokens_of(family, model):
        pieces.append({"prompt": states[:start], "answer": states[start:], "all": states}[part])
    assert all(map(len, pieces))
    by_hand = {
        "all": torch.cat(pieces),  # one value a token
        "last": torch.stack([piece[-1] for piece in pieces]),  # one value a row
        "mean": torch.stack([piece.mean(0) for piece in pieces]),
    }
    for pooling, wanted in by_hand.items():
        found = run(Probe("residual", layers=(0,), part=part, pooling=pooling, extremes=True), family, model)  # type: ignore[arg-type]
        (site,) = found.sites
        assert found.count(site) == len(wanted)
        close = {"rtol": 1e-4, "atol": 1e-6}
        torch.testing.assert_close(found.mean(site), wanted.mean(0), **close)
        torch.testing.assert_close(found.variance(site), wanted.var(0), **close)
        torch.testing.assert_close(found.deviation(site), wanted.std(0), **close)
        torch.testing.assert_close(found.magnitude(site), wanted.abs().mean(0), **close)
        torch.testing.assert_close(found.minimum(site), wanted.amin(0), **close)
        torch.testing.assert_close(found.maximum(site), wanted.amax(0), **close)
        assert torch.equal(found.mean(site.key), found.mean(site))
        assert (found.scope.rows, found.scope.pooling, found.scope.part) == (len(ROWS), pooling, part)


@every_family
def test_batches_and_padding_change_nothing(family: str) -> None:
    for pooling in ("all", "last", "mean"):
        model: Any = zoo.model(family)
        probe = {"sites": ROLES, "pooling": pooling, "part": "answer", "extremes": True}
        alone = run(Probe(**probe, batch_rows=1), family, model)  # type: ignore[arg-type]
        assert len({alone.count(site) for site in alone.sites if site.expert is None}) == 1
        same(run(Probe(**probe, batch_rows=3), family, model), alone)  # type: ignore[arg-type]
        same(run(Probe(**probe, side="left"), family, model), alone)  # type: ignore[arg-type]


def test_experts_by_hand() -> None:
    """A row's tokens go to 2 of 4 experts each; an expert's statistics are of the tokens that it got."""
    model: Any = zoo.model("mixtral")
    tokenizer = zoo.tokenizer("mixtral")
    values: dict[int, list[Tensor]] = {number: [] for number in range(4)}
    experts = model.model.layers[0].mlp.experts

    def hook(_: Any, arguments: tuple[Tensor, ...]) -> None:
        for state, chosen in zip(arguments[0], arguments[1].tolist(), strict=True):
            for number in chosen:
                gate, up = (experts.gate_up_proj[number] @ state).chunk(2)
                values[number].append(torch.nn.functional.silu(gate) * up)

    handle = experts.register_forward_pre_hook(hook)
    tokens = 0
    for example in encode_all(tokenizer, Template.of(tokenizer), ROWS, max_length=512):
        with torch.no_grad():
            model(torch.tensor([example.input_ids]), use_cache=False)
        tokens += len(example.input_ids)
    handle.remove()
    found = run(Probe("mlp_key", layers=(0,)), "mixtral", model)
    assert sum(found.count(site) for site in found.sites) == 2 * tokens
    for site in found.sites:
        assert site.expert is not None
        wanted = torch.stack(values[site.expert]).double()
        assert found.count(site) == len(wanted)
        torch.testing.assert_close(found.mean(site), wanted.mean(0), rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(found.deviation(site), wanted.std(0), rtol=1e-4, atol=1e-7)


def test_an_expert_without_tokens_has_no_values() -> None:
    model: Any = zoo.model("mixtral")
    gate = model.model.layers[0].mlp.gate
    with torch.no_grad():
        gate.weight.zero_()  # all experts alike: the first two are chosen for every token
    for pooling in ("all", "mean"):
        found = run(Probe("mlp_key", layers=(0,), pooling=pooling), "mixtral", model)  # type: ignore[arg-type]
        assert [found.count(site) > 0 for site in found.sites].count(True) == 2
        idle = next(site for site in found.sites if not found.count(site))
        with pytest.raises(InputError, match=r"experts.down_proj\[\d\]:input has no values"):
            found.mean(idle)


def test_neither_head_nor_layers_above_are_run() -> None:
    model: Any = zoo.model("llama", num_hidden_layers=3)
    called: list[str] = []
    for name, module in model.named_modules():
        module.register_forward_hook(lambda *_, name=name: called.append(name))
    original = model.lm_head.forward
    model.lm_head.forward = lambda *_: pytest.fail("the head was run")
    run(Probe("mlp_key", layers=(0, 1)), model=model)
    assert "model.layers.1.mlp.down_proj" in called
    assert "model.layers.2.mlp.down_proj" not in called
    run(Probe("model.norm:output"), model=model)
    assert "model.layers.2.mlp.down_proj" in called
    model.lm_head.forward = original


def test_the_model_is_left_as_it_was_after_an_exception_too(monkeypatch: pytest.MonkeyPatch) -> None:
    for family in ("llama", "mixtral", "opt"):
        model: Any = zoo.model(family).train()
        decoder_layers(model)[0][1].eval()
        before = snapshot(model)
        quiet = run(Probe(ROLES), family, model)
        assert snapshot(model) == before
        same(quiet, run(Probe(ROLES), family, model.eval()))  # dropout takes no part
        model.train()
        decoder_layers(model)[0][1].eval()
        with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
            patch.setattr("expunge.probing.probe.Moments.of", lambda *_, **__: 1 / 0)
            run(Probe(ROLES), family, model)
        assert snapshot(model) == before


def test_values_that_are_no_numbers_name_site_and_row() -> None:
    model: Any = zoo.model("llama")
    examples = encode_all(zoo.tokenizer("llama"), Template.of(zoo.tokenizer("llama")), ROWS, max_length=512)
    ids = [set(example.input_ids) for example in examples]
    alone = next(token for token in ids[7] if not any(token in other for other in ids[:7]))  # the document's own
    with torch.no_grad():
        model.model.embed_tokens.weight[alone] = torch.nan
    with pytest.raises(ModelError, match=r"NaN or infinite at model.layers.0:output, .* in forget.jsonl:8\. The"):
        run(Probe("residual"), model=model)
    run(Probe("residual"), model=model, some=ROWS[:7])
    with torch.no_grad():
        model.model.layers[1].mlp.gate_proj.weight[3] = torch.inf
    with pytest.raises(ModelError, match=r"at model.layers.1.mlp.act_fn:input in .*forget.jsonl:\d.* and 2 more rows"):
        run(Probe("mlp_activation"), model=model, some=ROWS[:7])


def test_a_result_says_what_it_is_of_and_two_can_be_put_together() -> None:
    model = zoo.model("llama")
    probe = Probe(["mlp_key", "model.norm:output"], max_length=24, batch_rows=2)
    both, first, second = (run(probe, model=model, some=some) for some in (ROWS, ROWS[:3], ROWS[3:]))
    assert (both.scope.rows, both.scope.max_length, both.scope.template) == (8, 24, "plain")
    assert first.scope.cut + second.scope.cut == both.scope.cut > 0
    together = first.merged(second)
    assert together.scope == both.scope
    same(together, both)
    others = {
        "the sites": run(Probe("mlp_key", max_length=24), model=model),
        "pooling": run(Probe(["mlp_key", "model.norm:output"], max_length=24, part="answer"), model=model),
        "weights": run(probe, model=zoo.model("llama", seed=1)),
    }
    for what, other in others.items():
        with pytest.raises(InputError, match=f"cannot be put together: .*{what}.* differ"):
            first.merged(other)
    with pytest.raises(UnknownNameError, match=r"no site 'model.nom:output'. Did you mean 'model.norm:output'"):
        both.mean("model.nom:output")
    with pytest.raises(InputError, match="Probe with extremes=True"):
        both.minimum("model.norm:output")
    with pytest.raises(InputError, match="takes at least 2 values, and there is 1"):
        run(Probe("residual", pooling="last"), model=model, some=ROWS[:1]).deviation("model.layers.0:output")


def test_bad_input() -> None:
    model = zoo.model("llama")
    with pytest.raises(InputError, match="no rows to probe"):
        run(Probe("residual"), some=[])
    with pytest.raises(ConfigError, match="pooling='first' is not known"):
        Probe("residual", pooling="first")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"part='answers' is not known. Did you mean 'answer'"):
        Probe("residual", part="answers")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="batch_rows=0: at least 1"):
        Probe("residual", batch_rows=0)
    with pytest.raises(UnknownNameError, match="Did you mean 'residual'"):
        run(Probe("residuals"), model=model)
    with pytest.raises(EncodingError, match="7 of 8 rows cannot be encoded"):
        run(Probe("residual", max_length=4), model=model)
    with pytest.raises(ModelError, match=r"has no transformer.h.0.mlp.c_proj:input: 1 of the sites are another"):
        run(Probe(find_sites(zoo.model("gpt2"), "mlp_key", [0])), model=model)
    with pytest.raises(ConfigError, match="no site is named"):
        run(Probe([]), model=model)


def test_offloaded_weights_are_refused() -> None:
    model: Any = zoo.model("llama")
    model.model.layers[1].mlp.to("meta")
    with pytest.raises(ModelError, match="a part of the model's weights is offloaded"):
        run(Probe("residual", layers=(0,)), model=model)


def test_modules_that_cannot_be_read_by_token() -> None:
    model = zoo.model("llama", num_hidden_layers=2)
    with pytest.raises(ModelError, match=r"rotary_emb:output passes torch.float32 \[1, \d+, 16\] for 8 rows of"):
        run(Probe("*.rotary_emb:output"), model=model)
    with pytest.raises(ModelError, match=r"embed_tokens:input passes torch.int64"):
        run(Probe("*.embed_tokens:input"), model=model)
    with pytest.raises(ModelError, match=r"model.layers:output is passed 0 times .* if the model was compiled"):
        run(Probe("model.layers:output"), model=model)
    model.model.layers[1].mlp.act_fn = model.model.layers[0].mlp.act_fn  # type: ignore[union-attr, assignment]
    with pytest.raises(ModelError, match=r"layers.0.mlp.act_fn:input is passed 2 times"):
        run(Probe([Site("model.layers.0.mlp.act_fn", "input", "mlp_activation", 1)]), model=model)


def test_narrow_models_have_wide_statistics() -> None:
    model: Any = zoo.model("llama").to(torch.bfloat16)
    found = run(Probe(ROLES), model=model)
    wide = run(Probe(ROLES), model=model.float())
    for site in found.sites:
        assert found.mean(site).dtype == torch.float64
        # bfloat16 keeps 8 bits: activations are off by about 1%, their deviations by less
        gap = (found.mean(site) - wide.mean(site)).abs() / wide.deviation(site)
        assert gap.max() < 0.05
        torch.testing.assert_close(found.deviation(site), wide.deviation(site), rtol=0.05, atol=0)


@pytest.mark.slow
def test_two_processes_find_what_one_finds(tmp_path: Path) -> None:
    launch(__file__, tmp_path)
    for name, some in (("many", ROWS), ("one", ROWS[:1])):
        for family in ("llama", "mixtral"):
            found = ProbeResult.load(tmp_path / f"{family}-{name}", zoo.model(family), zoo.tokenizer(family))
            alone = run(Probe(ROLES, extremes=True), family, some=some)
            assert found.scope == alone.scope
            same(found, alone)


def in_its_process(folder: Path) -> None:
    """What each of two processes does in the test above."""
    torch.set_num_threads(1)
    for name, some in (("many", ROWS), ("one", ROWS[:1])):  # of one row, one process has nothing
        for family in ("llama", "mixtral"):
            found = run(Probe(ROLES, extremes=True), family, some=some)
            if distributed.is_main():
                found.save(folder / f"{family}-{name}")
    model: Any = zoo.model("llama")
    broken = encode_all(zoo.tokenizer("llama"), Template.of(zoo.tokenizer("llama")), ROWS, max_length=512)[0].input_ids[
        5
    ]
    with torch.no_grad():
        model.model.embed_tokens.weight[broken] = torch.nan
    with pytest.raises(ModelError, match="NaN or infinite"):  # in both, whoever has the row
        run(Probe("residual"), model=model)
    distributed.leave()


if __name__ == "__main__":
    in_its_process(Path(sys.argv[1]))
