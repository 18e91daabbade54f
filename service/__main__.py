"""`python -m service`: uvicorn over the app, with as many workers as told."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from urllib.parse import urlsplit

import uvicorn

from service.errors import StartupError
from service.experiments.plan import read_plan
from service.settings import PREFIX, Settings, settings_of
from service.stores import schemes
from service.telemetry.logs import logging_config

# Not from service.telemetry.metrics: the client looks for the variable when it is imported.
MULTIPROCESS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


def main() -> None:
    """Serve until told to stop. Exit code 2, and a line that says why, where the settings cannot be used."""
    try:
        settings = read_settings(sys.argv[1:])
        check(settings)
        if ignored := unknown_variables(os.environ):
            print(f"twinstar-serve: no such settings, ignored: {', '.join(ignored)}", file=sys.stderr)
    except StartupError as error:
        print(f"twinstar-serve: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    # uvicorn stops in order and then raises the signal again: that is not to be this process's end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with _environment_of_workers(settings):
        uvicorn.run(
            "service.app:create_app",
            factory=True,
            host=settings.host,
            port=settings.port,
            workers=settings.workers,
            loop="uvloop",
            http="httptools",
            ws="none",
            lifespan="on",
            log_config=logging_config(settings.log_level),
            access_log=False,
            server_header=False,
            proxy_headers=False,  # nothing asks who the caller is
            timeout_keep_alive=settings.keep_alive_timeout_s,
            timeout_graceful_shutdown=settings.shutdown_timeout_s,
        )


def read_settings(arguments: Sequence[str]) -> Settings:
    """Return the service's settings, as `settings_of` does."""
    return settings_of(Settings, arguments, command="twinstar-serve")


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Return the variables with our prefix that name no setting. Told, not refused: Kubernetes and compose
    files make some of their own."""
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    return sorted(name for name in environment if name.startswith(PREFIX) and name not in known)


def check(settings: Settings) -> None:
    """Refuse settings that no waiting would mend.

    Raises:
        StartupError: the experiments file or the store's URL cannot be used.
    """
    read_plan(settings.experiments_file)
    scheme = urlsplit(settings.store_url).scheme
    if scheme not in schemes():
        known = ", ".join(f"{name}://" for name in schemes())
        raise StartupError(f"store_url: no store of scheme {scheme!r}; there are {known}")
    if scheme == "memory" and settings.workers > 1:
        raise StartupError("store_url: memory:// is one process's own, and there are several workers")


@contextmanager
def _environment_of_workers(settings: Settings) -> Iterator[None]:
    """Hand the settings to worker processes, and a folder to count in where there are several."""
    os.environ.update(settings.as_environment())
    if settings.workers == 1 or MULTIPROCESS_VARIABLE in os.environ:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="twinstar-metrics-") as folder:
        os.environ[MULTIPROCESS_VARIABLE] = folder
        yield


if __name__ == "__main__":
    main()
