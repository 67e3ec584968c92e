"""Optional packages: whether one is there, whether it is new enough, and how it is installed."""

from __future__ import annotations

import re
from importlib import metadata

from expunge.errors import ConfigError


def installed(package: str) -> str | None:
    """The version of an installed package, None where there is none. Imports nothing."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def require(package: str, *, at_least: str, extra: str, wanted_by: str, otherwise: str) -> None:
    """Refuse a setting whose optional package is missing or too old.

    ``wanted_by`` is the setting as the user wrote it, ``extra`` the optional dependency of expunge that brings the
    package, ``otherwise`` what to do without it.

    Raises:
        ConfigError: the package is not installed, or older than ``at_least``.
    """
    found = installed(package)
    if found is None:
        raise ConfigError(
            f"{wanted_by} needs the package {package}, which is not installed. "
            f"Install it (pip install 'expunge[{extra}]'), or {otherwise}."
        )
    if _numbers(found) < _numbers(at_least):
        raise ConfigError(
            f"{wanted_by} needs {package} {at_least} or later, and {found} is installed. "
            f"Update it (pip install -U {package}), or {otherwise}."
        )


def _numbers(version: str) -> tuple[int, ...]:
    """The release part of a version: ``0.46.1.dev0`` is (0, 46, 1)."""
    release = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in release.group().split(".")) if release else (0,)
