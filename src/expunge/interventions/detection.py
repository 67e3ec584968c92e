"""Keys that are recognised, and what is done then: the model abstains, or is steered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from expunge.interventions.hypercube import Box, Hypercube, Hypercubes, unite
from expunge.interventions.interface import Intervention, check_there, site_facts, sites_of
from expunge.models.abstention import abstaining
from expunge.models.roles import Site

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_BOX = ("centre", "spread", "tolerance", "order")


@dataclass(frozen=True)
class Detection(Intervention):
    """From the token on whose keys one of the hypercubes holds, a row is answered with that cube's refusal and
    ``end_token``, or the key is replaced where the cubes say by what (:func:`~expunge.models.abstention.abstaining`).
    """

    kind: ClassVar[str] = "detection"

    cubes: Hypercubes
    end_token: int

    @property
    def sites(self) -> Sequence[Site]:
        return self.cubes.sites

    @contextmanager
    def active(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> Iterator[None]:  # noqa: ARG002
        check_there(model, self.sites)
        with abstaining(model, self.cubes, end_token=self.end_token):
            yield

    def facts(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "sites": site_facts(self.sites),
            "refusals": [list(tokens) for tokens in self.cubes.refusals],
            "end_token": self.end_token,
        }

    def tensors(self) -> dict[str, Tensor]:
        cubes = self.cubes
        found = {"generation": cubes.generation, "scoring": cubes.scoring}
        if cubes.steer is not None:
            found["steer"] = cubes.steer
        for site in cubes.sites:
            boxes = [cube.boxes[site] for cube in cubes.cubes]
            least = min(len(box.order) for box in boxes)
            for name in _BOX:
                parts = [getattr(box, name) for box in boxes]
                found[f"{site.key}.{name}"] = torch.stack([p[:least] for p in parts] if name == "order" else parts)
            found[f"{site.key}.k_star"] = torch.tensor([box.k_star for box in boxes], dtype=torch.float64)
        return found

    @classmethod
    def read(cls, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        sites = sites_of(facts)
        cubes = []
        for number in range(len(facts["refusals"])):
            boxes = {
                site: Box(
                    **{name: tensors[f"{site.key}.{name}"][number] for name in _BOX},
                    k_star=float(tensors[f"{site.key}.k_star"][number]),
                )
                for site in sites
            }
            cubes.append(Hypercube(boxes))
        made = Hypercubes(
            cubes,
            generation=tensors["generation"].tolist(),
            scoring=tensors["scoring"].tolist(),
            refusals=[tuple(tokens) for tokens in facts["refusals"]],
            steer=tensors.get("steer"),
        )
        return cls(made, int(facts["end_token"]))

    @classmethod
    def united(cls, several: Sequence[Self]) -> list[Self]:
        """The same in as few comparisons as will do: those on the same sites with the same end become one."""
        by_end: dict[int, list[Hypercubes]] = {}
        for one in several:
            by_end.setdefault(one.end_token, []).append(one.cubes)
        return [cls(cubes, end) for end, some in by_end.items() for cubes in unite(*some)]
