"""Guards of one model on disk, with a trail of who changed which of them, when and why.

store = GuardStore("guards")
store.add("runs/alice/erasure", who="D. Lang", why="request 4711")
with store.applied(model, tokenizer):
    model.generate(..)              # guarded; store.disable("alice", ..), in any process, holds from the next call on
"""

from __future__ import annotations

import getpass
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from expunge.errors import ConfigError, ErasureError, InputError, OutputError, UnknownNameError, did_you_mean
from expunge.file_lock import locked
from expunge.files import new_folder, sha256, write_json, writing
from expunge.guards.audit_trail import AuditTrail, Entry, digest
from expunge.guards.guard_names import check_name, folded

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from expunge.erasures.input_guard import InputGuard
    from expunge.erasures.manifest import Manifest
    from expunge.guards.prompt_guard import PromptGuard, PromptGuards

STORE, TRAIL, LOCK, GUARDS, LIFTED = "store.json", "audit.jsonl", ".lock", "guards", "lifted"
GUARD, CLASSIFIER = "guard.json", "classifier"
SCHEMA = 1


@dataclass(frozen=True)
class Stored:
    """A guard of the store: whether it is enabled, and how it was added."""

    name: str
    enabled: bool
    added: Entry


class GuardStore:
    """A folder of guards of one model.

    The trail decides which guards there are; their files never change. ``store.json`` says which model they are of,
    ``guards/NAME`` has a guard, ``lifted/NAME.N`` one that was lifted by line N of the trail ``audit.jsonl``. Whoever
    changes the store gives ``who`` (by default the user's name) and ``why``.

    Args:
        folder: made when the first guard is added.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.trail = AuditTrail(self.folder / TRAIL, self.folder / STORE)

    @property
    def names(self) -> dict[str, bool]:
        """Every guard's name, and whether it is enabled."""
        with self.steady():
            return {name: guard.enabled for name, guard in self.guards().items()}

    def guards(self) -> dict[str, Stored]:
        """Every guard by name, in the order in which they were added.

        Raises:
            ErasureError: there is no store in the folder, or its trail is broken.
        """
        return _replayed(self._entries())

    def add(
        self, source: str | Path | InputGuard, name: str | None = None, *, who: str | None = None, why: str = ""
    ) -> list[str]:
        """Add the guards of an erasure, enabled; returns their names.

        Args:
            source: an erasure that recognises prompts, or its folder or run folder.
            name: of the guard; None: the name that it has. An erasure with several guards keeps theirs.

        Raises:
            ErasureError: the erasure is damaged, recognises no prompts, or is of another model than the store.
            ConfigError: a name that is taken or that no file can have.
        """
        erasure = _erasure(source)
        found = _prompt_guards(erasure, str(source) if isinstance(source, str | Path) else "the erasure")
        if name is not None and len(found) > 1:
            raise ConfigError(
                f"the erasure has {len(found)} guards ({', '.join(guard.name for guard in found)}), and one name was "
                f"given, {name!r}. Leave the name out: they keep their own."
            )
        some = [replace(guard, name=guard.name if name is None else name) for guard in found]
        for guard in some:
            check_name(guard.name)
        with locked(self.folder / LOCK):
            entries = [] if self._blank() else self.trail.read()
            held = _replayed(entries)
            self._check_new([guard.name for guard in some], held)
            self._check_model(erasure.manifest, begun=bool(entries))
            for guard in some:
                folder = self._guard_folder(guard.name)
                self._set_aside(guard.name, len(entries))  # left by a process that was killed
                _write(guard, erasure.manifest, folder)
                subjects = guard.about.get("subjects") or ()
                self._note("add", guard.name, who, why, list(map(str, subjects)))
        return [guard.name for guard in some]

    def disable(self, name: str, *, who: str | None = None, why: str = "") -> None:
        """Let a guard rest; it stays in the store."""
        self._switch(name, "disable", who, why)

    def enable(self, name: str, *, who: str | None = None, why: str = "") -> None:
        """Let a guard act again."""
        self._switch(name, "enable", who, why)

    def lift(self, name: str, *, who: str | None = None, why: str = "") -> Path:
        """Take a guard out of force; returns the folder that its files are in from now on."""
        with locked(self.folder / LOCK):
            held = self._held(name)
            self._note("lift", name, who, why, held.added.subjects)
            return self._set_aside(name, len(self.trail.read()))

    def load(self) -> PromptGuards:
        """All guards, as they are now.

        Raises:
            ErasureError: the trail is broken, a guard's files are not those that were added, or there are files of a
                guard of which it does not speak.
        """
        from expunge.guards.prompt_guard import PromptGuards

        with self.steady():
            held = self.in_force()
            found = [self.read(one) for one in held.values()]
        return PromptGuards(found, [one.name for one in held.values() if not one.enabled])

    def in_force(self) -> dict[str, Stored]:
        """As :meth:`guards`, refused where files of guards are there that are in no line: lines may have been cut off.

        Raises:
            ErasureError: as :meth:`guards`, or such files, all of them named.
        """
        entries = self._entries()
        held = _replayed(entries)
        lifted = {entry.guard: number for number, entry in enumerate(entries, 1) if entry.action == "lift"}
        strange = [
            name
            for name in self._strange(held)
            if name[0] != "."  # unfinished
            and (self._guard_folder(name) / GUARD).is_file()
            # a process that was killed while it lifted a guard left its files where they were
            and (name not in lifted or self._lifted_folder(name, lifted[name]).exists())
        ]
        if strange:
            raise ErasureError(
                f"{self.folder} has the files of guards that are in no line of its trail: "
                f"{', '.join(f'{GUARDS}/{name}' for name in strange)}. Lines were cut off at the trail's end, or a "
                "process was killed while it added them. Put back a copy of the trail; if they never were in force, "
                "add them again or move their folders away."
            )
        return held

    @contextmanager
    def steady(self) -> Iterator[None]:
        """Nobody changes the store inside, where this process may lock it (not on a read-only disk)."""
        with ExitStack() as stack:
            if (self.folder / STORE).is_file():
                with suppress(OutputError):
                    stack.enter_context(locked(self.folder / LOCK))
            yield

    def read(self, held: Stored) -> PromptGuard:
        """One guard with its classifier; refused where its files are not those that were added."""
        from expunge.guards.prompt_guard import PromptGuard

        folder = self._guard_folder(held.name)
        if files_digest(folder) != held.added.sha256:
            raise ErasureError(
                f"the files of guard '{held.name}' in {folder} are not those that were added on {held.added.time}. Put "
                "back a copy of them, or lift the guard and add it again."
            )
        facts = json.loads((folder / GUARD).read_text(encoding="utf-8"))
        return PromptGuard.read(facts["guard"], folder / CLASSIFIER)

    @contextmanager
    def applied(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Iterator[PromptGuards]:
        """Inside, the store's guards stand before ``model``, and changes of the store hold from its next call on,
        whichever process makes them; on exit nothing of them is left.

        Raises:
            ErasureError: the store is of another model, or as :meth:`load`.
        """
        from expunge.erasures.input_guard import InputGuard
        from expunge.guards.live import LiveGuards

        guards = LiveGuards(self, model)
        with InputGuard(self.manifest(), [guards], tokenizer).applied(model):
            yield guards

    def manifest(self) -> Manifest:
        """What the guards' erasures have in common: the model that they are of."""
        from expunge.erasures.manifest import Manifest
        from expunge.erasures.same_model import VALUES
        from expunge.models.fingerprint import Fingerprint

        facts = json.loads((self.folder / STORE).read_text(encoding="utf-8"))
        return Manifest(
            kind="inputs",
            format="input_guard",
            method="guards of a store",
            parameters={},
            target=Fingerprint(**facts["target"]),
            details={VALUES: facts["values"]},
        )

    def verify(self, head: str | None = None) -> list[str]:
        """What is wrong: where the trail was broken, guards whose files are others, folders that no line speaks of.

        Args:
            head: ``trail.head`` as it was written down elsewhere, of the newest line or of an earlier one. Lines that
                were cut off at the end cannot be seen without.
        """
        entries, problems = self.trail.check()
        held: dict[str, Stored] = {}
        try:
            held = _replayed(entries)
        except ErasureError as error:
            problems.append(str(error))
        if head is not None and head != self.trail.head and head not in [entry.previous for entry in entries]:
            problems.append(f"no line has the hash {head}: lines after it was noted were changed or cut off")
        for name, guard in held.items():
            if files_digest(self._guard_folder(name)) != guard.added.sha256:
                problems.append(f"the files of guard '{name}' are not those that were added")
        problems += [f"{GUARDS}/{name} is in no line of the trail" for name in self._strange(held)]
        return problems

    def _switch(self, name: str, action: str, who: str | None, why: str) -> None:
        with locked(self.folder / LOCK):
            held = self._held(name)
            if held.enabled == (action == "enable"):
                raise ConfigError(f"guard '{name}' is {action}d already. Nothing was changed.")
            self._note(action, name, who, why, held.added.subjects)

    def _entries(self) -> list[Entry]:
        if not (self.folder / STORE).is_file():
            raise ErasureError(
                f"{self.folder} holds no guards: there is no {STORE} in it. Add one first (expunge guards STORE add "
                "RUN), or pass the store's folder."
            )
        return self.trail.read()

    def _strange(self, held: Mapping[str, Stored]) -> list[str]:
        """What is among the guards' folders and of none that is held."""
        there = self.folder / GUARDS
        return sorted({one.name for one in there.iterdir()} - held.keys()) if there.is_dir() else []

    def _blank(self) -> bool:
        """Whether no guard was ever added: a process may have been killed before it added the first one."""
        return self.trail.empty and not any((self.folder / name).exists() for name in (GUARDS, LIFTED))

    def _held(self, name: str) -> Stored:
        held = self.guards()
        if name not in held:
            raise UnknownNameError(f"there is no guard '{name}' in {self.folder}. {did_you_mean(name, held)}")
        return held[name]

    def _note(self, action: str, name: str, who: str | None, why: str, subjects: Sequence[str]) -> None:
        found = files_digest(self._guard_folder(name))
        self.trail.append(who=who or _user(), action=action, guard=name, why=why, subjects=subjects, sha256=found)

    def _check_new(self, names: Sequence[str], held: Mapping[str, Stored]) -> None:
        taken = {folded(name): name for name in held}
        both = []
        for name in names:
            if folded(name) in taken:
                both.append(f"'{name}'")
            taken[folded(name)] = name
        if both:
            raise ConfigError(
                f"there is a guard of the name {', '.join(both)} already (upper and lower case are the same here). "
                "Lift it first, or give this one another name."
            )

    def _check_model(self, manifest: Manifest, *, begun: bool) -> None:
        """Refuse guards of another model; the first one says which it is."""
        from expunge.erasures.same_model import VALUES

        new = {"schema": SCHEMA, "target": manifest.target.as_dict(), "values": manifest.details.get(VALUES)}
        if not begun:
            write_json(self.folder / STORE, new)
            return
        ours = self.manifest()
        parts = manifest.target.differences(ours.target)
        alike = (manifest.target.dtype, manifest.target.quantization) == (ours.target.dtype, ours.target.quantization)
        if not parts and alike and new["values"] != ours.details[VALUES]:
            parts = ["values in memory"]
        if parts:
            raise ErasureError(
                f"this guard is of another model than the store {self.folder}: {' and '.join(parts)} differ (guard: "
                f"{manifest.target.source}, weights {manifest.target.weights[:12]}; store: {ours.target.source}, "
                f"weights {ours.target.weights[:12]}). Keep a store for each model."
            )

    def _guard_folder(self, name: str) -> Path:
        return self.folder / GUARDS / name

    def _lifted_folder(self, name: str, line: int) -> Path:
        return self.folder / LIFTED / f"{name}.{line}"

    def _set_aside(self, name: str, line: int) -> Path:
        """Move a guard's folder, where there is one, to the lifted ones."""
        folder, to = self._guard_folder(name), self._lifted_folder(name, line)
        with writing(to):
            if folder.is_dir():
                to.parent.mkdir(exist_ok=True)
                folder.replace(to)
        return to


def files_digest(folder: Path) -> str:
    """The digest of a folder's files, by name and content; empty where there is no folder."""
    if not folder.is_dir():
        return ""
    files = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    return digest(json.dumps([[name, sha256(folder / name)] for name in files]).encode())


def _replayed(entries: Sequence[Entry]) -> dict[str, Stored]:
    """What the trail's changes lead to."""
    held: dict[str, Stored] = {}
    for number, entry in enumerate(entries, 1):
        if (entry.action == "add") == (entry.guard in held):
            there = "is there already" if entry.guard in held else "is not there"
            raise ErasureError(f"line {number} of the trail is to {entry.action} guard '{entry.guard}', which {there}")
        if entry.action == "lift":
            del held[entry.guard]
        elif entry.action == "add":
            held[entry.guard] = Stored(entry.guard, True, entry)
        else:
            held[entry.guard] = replace(held[entry.guard], enabled=entry.action == "enable")
    return held


def _erasure(source: str | Path | InputGuard) -> InputGuard:
    from expunge.erasures.input_guard import InputGuard
    from expunge.erasures.manifest import load_erasure

    if isinstance(source, InputGuard):
        return source
    path = Path(source)
    if not path.is_dir():
        raise InputError(f"there is no folder {path}. Pass a run folder, or the folder called 'erasure' in it.")
    found = load_erasure(path / "erasure" if (path / "erasure").is_dir() else path)
    if not isinstance(found, InputGuard):
        raise ErasureError(
            f"{source} holds an erasure of kind '{found.kind}', and a store holds input guards. Make one with expunge "
            "forget --method embedding_corruption or refusal_guard."
        )
    return found


def _prompt_guards(erasure: InputGuard, source: str) -> list[PromptGuard]:
    from expunge.guards.prompt_guard import PromptGuards

    found = [one[name] for one in erasure.guards if isinstance(one, PromptGuards) for name in one.names]
    if not found or not all(isinstance(one, PromptGuards) for one in erasure.guards):
        raise ErasureError(
            f"{source} has guards that recognise no prompts ({', '.join(one.kind for one in erasure.guards)}): they "
            "act on all of them, and a store holds those that act on some. Apply it by itself."
        )
    return found


def _write(guard: PromptGuard, manifest: Manifest, folder: Path) -> None:
    with new_folder(folder) as made:
        guard.classifier.save(made / CLASSIFIER)
        made_by = {"method": manifest.method, "parameters": manifest.parameters}
        write_json(made / GUARD, {"schema": SCHEMA, "guard": guard.facts(), "made_by": made_by})


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError) as error:  # a container's user may have no name
        raise InputError("nobody is named who makes this change, and the system knows no user. Pass who.") from error
