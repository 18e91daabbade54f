"""Plug-ins: one file in a package, its name the name in the config, `Options` and `build` in it."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from training.errors import ConfigError


def plugin_names(package: str) -> tuple[str, ...]:
    """Return the names of a package's plug-ins."""
    paths = importlib.import_module(package).__path__
    return tuple(
        sorted(module.name for module in pkgutil.iter_modules(paths) if not module.name.startswith("_"))
    )


def load_plugin(package: str, name: str) -> ModuleType:
    """Return the module of a plug-in.

    Raises:
        ConfigError: there is none of that name; the message lists those there are.
    """
    names = plugin_names(package)
    if name not in names:
        kind = package.rpartition(".")[2]
        raise ConfigError(f"{name!r} is none of {kind}: {', '.join(names)}")
    return importlib.import_module(f"{package}.{name}")
