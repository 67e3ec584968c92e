"""What an estimate is made of: a model's shape from its configuration, and a run's forwards from its rows."""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from expunge.errors import ModelError
from expunge.evaluation.generation import rows_that_fit
from expunge.models.anatomy import decoder_layers
from expunge.training.frozen import kinds_of
from expunge.training.parameters import lora_values, select_parameters
from expunge.training.plan import WIDE, Shape, Work
from expunge.training.references import LOGPS
from expunge.training.schedule import make_schedule, worth_a_forward

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel

    from expunge.data.encode import Example
    from expunge.methods.weight_method import WeightMethod
    from expunge.training.rows import Rows
    from expunge.training.settings import TrainingSettings


def hollow_model(config: Any, *, trust_remote_code: bool = False, device: str = "cpu") -> PreTrainedModel:
    """The model of a configuration with every parameter there by name, shape and device, and no memory behind it."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is None:
                continue
            if id(parameter) not in made:  # tied weights stay one
                value = torch.zeros((), dtype=parameter.dtype, device=device).expand(parameter.shape)
                made[id(parameter)] = nn.Parameter(value, requires_grad=parameter.is_floating_point())
            module._parameters[name] = made[id(parameter)]
    return model.eval()  # type: ignore[no-any-return]


class RunSizes:
    """Shape and work of one run (see :class:`expunge.training.plan.Sizes`) on a model whose values are not looked at.

    Alternative answers that a method would make are taken to be one for each forget row, as long as the row's own.
    ``free`` are the bytes of GPU memory that evaluation will find (None: a CPU), ``number`` those of a loaded value.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        method: WeightMethod,
        rows: Rows,
        *,
        number: int = WIDE,
        free: int | None = None,
    ) -> None:
        self.model, self.method, self.rows = model, method, rows
        self.number, self.free = number, free
        self.shape = lru_cache(maxsize=None)(self._shape)
        self.work = lru_cache(maxsize=None)(self._work)

    def last_layers(self) -> tuple[str, ...]:
        names = [name for name, _ in self._layers]
        return tuple(f"{name}.*" for name in names[-max(1, len(names) // 4) :])

    @cached_property
    def _layers(self) -> list[tuple[str, nn.Module]]:
        try:
            return decoder_layers(self.model)
        except ModelError:  # an estimate can do without
            return []

    @cached_property
    def _prefixes(self) -> tuple[str, ...]:
        return tuple(f"{name}." for name, _ in self._layers)

    @cached_property
    def _linear(self) -> dict[str, tuple[int, int]]:
        """Input and output width of every linear layer but the head."""
        from transformers.pytorch_utils import Conv1D

        head = self.model.get_output_embeddings()
        found = {}
        for name, module in self.model.named_modules():
            if isinstance(module, (nn.Linear, Conv1D)) and module is not head:
                rows, columns = (int(size) for size in module.weight.shape)
                found[name] = (rows, columns) if isinstance(module, Conv1D) else (columns, rows)
        return found

    @cached_property
    def _experts(self) -> tuple[int, float]:
        """Numbers in stacked experts, and the share of them that a token meets."""
        stacked = sum(p.numel() for p in self.model.parameters() if p.ndim == 3)
        config = self.model.config.get_text_config()
        chosen = getattr(config, "num_experts_per_tok", None) or 1
        every = next((n for name in _EXPERTS if (n := getattr(config, name, None))), None)
        return stacked, min(1.0, chosen / every) if every else 1.0

    def _mlp(self, hidden: int) -> int:
        """Numbers that the last layer's MLP keeps of a token for its gradient: what its input projections make, the
        activation, and with a gate the product."""
        prefix = self._layers[-1][0] if self._layers else ""
        widths = [
            width
            for name, width in self._linear.items()
            if name.startswith(prefix) and not any(word in name for word in ("attn", "attention"))
        ]
        kept = 0
        if widths:
            inner = max(width for width, _ in widths)
            up = sum(out for _, out in widths if out in (inner, 2 * inner))
            kept = up + inner * (2 if up >= 2 * inner else 1)
        config = self.model.config.get_text_config()
        if self._experts[0]:
            names = ("moe_intermediate_size", "intermediate_size")
            width = next((int(size) for name in names if (size := getattr(config, name, None))), hidden)
            kept += 4 * width * int(getattr(config, "num_experts_per_tok", None) or 1)
        return kept or 4 * hidden

    def _shape(self, settings: TrainingSettings) -> Shape:
        model, config = self.model, self.model.config.get_text_config()
        parameters = dict(model.named_parameters())
        head = {id(p): p.numel() for p in model.get_output_embeddings().parameters()}  # type: ignore[union-attr]
        embeddings = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
        patterns = settings.layers or self.method.trainable_layers(model)
        widths = self._linear
        if settings.parameters == "lora":
            targets = lora_values(model, settings, patterns)["target_modules"]
            trained = settings.lora_rank * sum(sum(widths[name]) for name in targets)
            chosen, trained_embedding, trains_head = list(targets), 0, False
            adapted = sum(widths[name][0] for name in targets)
        else:
            chosen = select_parameters(model, patterns)
            trained = sum(parameters[name].numel() for name in chosen)
            trained_embedding = sum(parameters[name].numel() for name in chosen if id(parameters[name]) in embeddings)
            trains_head = any(id(parameters[name]) in head for name in chosen)
            adapted = 0
        hidden = int(config.hidden_size)
        heads = int(getattr(config, "num_attention_heads", None) or 1)
        width = int(getattr(config, "head_dim", None) or max(hidden // heads, 1))
        layers = len(self._layers) or int(getattr(config, "num_hidden_layers", None) or 1)
        stacked, share = self._experts
        linear = sum(rows * columns for rows, columns in widths.values())
        products = linear + stacked * share
        read = self.method.reads_layer
        run = layers if read is None else min(read + 1, layers)
        return Shape(
            parameters=sum(p.numel() for p in parameters.values()),
            trained=trained,
            trained_embedding=trained_embedding,
            linear=linear,
            products=round(products * run / layers),
            head=sum(head.values()) if read is None else 0,
            trains_head=trains_head and read is None,
            layers=run,
            deepest=min(run, self._deepest(chosen, {n for n, p in parameters.items() if id(p) in embeddings})),
            hidden=hidden,
            attention=heads * width,
            key_value=width * int(getattr(config, "num_key_value_heads", None) or heads),
            mlp=self._mlp(hidden),
            vocabulary=int(getattr(config, "vocab_size", None) or 1),
            outside=sum(p.numel() for name, p in parameters.items() if not name.startswith(self._prefixes)),
            adapted=adapted,
        )

    def _deepest(self, chosen: Sequence[str], embeddings: set[str]) -> int:
        """The lowest layer that one of the trained names is in; 0 where an embedding is trained."""
        if embeddings & set(chosen) or not self._layers:
            return 0
        inside = [
            number
            for number, (name, _) in enumerate(self._layers)
            if any(one == name or one.startswith(f"{name}.") for one in chosen)
        ]
        return min(inside, default=len(self._layers))

    def _work(self, settings: TrainingSettings) -> Work:
        method, rows = self.method, self.rows
        schedule = make_schedule(
            settings,
            forget_lengths=[len(e.input_ids) for e in rows.forget],
            retain_lengths=[len(e.input_ids) for e in rows.retain],
            whole_epochs=method.whole_epochs,
            worth=worth_a_forward(settings, "cpu" if self.free is None else "cuda"),
        )
        tokens: list[int] = []
        squares: list[int] = []
        answers: list[int] = []
        for micro in schedule.micros():
            lengths, answer = [], 0
            for example in rows.batch(micro, method)[0] if micro else ():
                lengths.append(len(example.input_ids))
                answer += example.answer_length
            widths = lengths if settings.packing else [max(lengths)] * len(lengths) if lengths else []
            tokens.append(sum(widths))
            squares.append(sum(width**2 for width in widths))
            answers.append(answer)
        sides = {side: rows.of(side) for side in ("forget", "alternative", "retain")}
        sides = {side: found for side, found in sides.items() if found}
        reference = self._reference({i for batch in schedule.batches for i in batch.retain})
        return Work(
            rows={side: len(found) for side, found in sides.items()},
            tokens={side: sum(len(e.input_ids) for e in found) for side, found in sides.items()},
            answer_tokens={side: sum(e.answer_length for e in found) for side, found in sides.items()},
            longest=max((len(e.input_ids) for found in sides.values() for e in found), default=0),
            steps=schedule.steps,
            forwards=sum(1 for count in tokens if count),
            step_forwards=schedule.forwards(),
            forward_tokens=sum(tokens),
            forward_squares=sum(squares),
            forward_answers=sum(answers),
            most_tokens=max(tokens, default=0),
            most_squares=max(squares, default=0),
            most_answers=0 if method.reads_layer is not None else max(answers, default=0),
            reference_tokens=reference[0],
            reference_states=reference[1],
            reference_answers=reference[2],
            generation=self._generation(settings, sides),
        )

    def _reference(self, drawn: set[int]) -> tuple[int, int, int]:
        """Tokens, kept states and answer tokens of the rows that the frozen target is asked about."""
        tokens = states = answers = 0
        for side, kinds in kinds_of(self.method).items():
            if not kinds:
                continue
            found = [self.rows.retain[i] for i in sorted(drawn)] if side == "retain" else self.rows.of(side)
            tokens += sum(len(e.input_ids) for e in found)
            if self.method.reads_layer is None:
                answers += sum(e.answer_length for e in found)
            if kinds - {LOGPS}:
                whole = self.method.reads_layer is not None
                states += sum(len(e.input_ids) if whole else e.answer_length for e in found)
        return tokens, states, answers

    def _generation(self, settings: TrainingSettings, sides: dict[str, list[Example]]) -> int:
        examples = [e for side in ("forget", "retain") for e in sides.get(side, ())]
        width = max((e.answer_start for e in examples), default=0) + settings.max_new_tokens
        config = self.model.config.get_text_config()
        shape = self.shape(settings)
        layers = len(self._layers) or int(getattr(config, "num_hidden_layers", None) or 1)
        row = 2 * layers * shape.key_value * width * self.number
        count = min(rows_that_fit(row, shape.vocabulary, self.free), len(examples))
        return count * (row + 2 * WIDE * shape.vocabulary)


_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
