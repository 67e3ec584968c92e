"""Short passages about invented people, of whom nobody knows anything."""

from __future__ import annotations

from collections.abc import Sequence

_PASSAGES = """
{name} grew up in a small town by the sea and went to school there. After a few years of study {last} found work in a \
library. Friends remember {last} as a patient listener.

{name} was a teacher of mathematics. In the evenings {last} wrote letters to former pupils, and some of them came back \
to visit. Little else is known of the life of {name}.

In spring {name} opened a bakery near the old market. The bread that {last} made was soon known in the whole district. \
The shop was later sold to a cousin.

{name} is a gardener who looks after the parks of a northern city. Before that, {last} worked on a farm. The first \
garden that {last} designed lies behind the town hall.

{name} played the violin in a small orchestra for most of a long life. Only once did {last} travel abroad. The diary \
of that journey was never printed.

As a young engineer {name} helped to build bridges in the mountains. One of them still carries a plate with the name \
of {last}. Later {last} taught at an evening school.

{name} is remembered for a short book about birds. It took {last} eleven years to finish it. A second book was begun, \
but its pages are lost.

For three years {name} was the doctor of an island village. People came to {last} with every kind of trouble. When the \
bridge was built, {last} moved to the mainland.
"""


def invented_passages(names: Sequence[str]) -> list[str]:
    """A passage about each of these people, by the templates in turn."""
    templates = _PASSAGES.strip().split("\n\n")
    return [
        templates[number % len(templates)].format(name=name, last=name.split()[-1]) for number, name in enumerate(names)
    ]
