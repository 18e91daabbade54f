"""`python -m service.score_file IN.parquet OUT.parquet`: candidates in a file, scored as POST /score scores them."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Sequence
from typing import Any, Final

from service.errors import InputFileError, NotReady, ServiceError, StartupError
from service.score_file.settings import ScoreFileSettings
from service.settings import settings_of
from service.stores.base import StoreError

MISSING_EXTRA: Final = "needs pyarrow and tqdm: pip install 'twinstar[batch]'"
STOPPED: Final = 130
"""The exit code of a command that Ctrl-C ended."""


def main() -> None:
    """Score a file. Exit codes: 2 where the arguments cannot be used, 1 where the file, the artefacts or the store
    cannot; with a line that says why, and no output."""
    try:
        settings = read_settings(sys.argv[1:])
        try:
            from service.score_file.job import score_file
        except ImportError as error:
            raise StartupError(MISSING_EXTRA) from error
        logging.basicConfig(level=logging.ERROR, format="twinstar-score: %(message)s")
        summary = asyncio.run(score_file(settings))
    except StartupError as error:
        raise SystemExit(_refused(error, 2)) from error
    except (ServiceError, StoreError) as error:
        raise SystemExit(_refused(error, 1)) from error
    except KeyboardInterrupt as error:
        raise SystemExit(_refused(InputFileError("stopped; nothing was written"), STOPPED)) from error
    print(json.dumps(summary) if settings.json_summary else _as_text(summary))


def read_settings(arguments: Sequence[str]) -> ScoreFileSettings:
    """Return the command's settings, as `settings_of` does."""
    return settings_of(ScoreFileSettings, arguments, command="twinstar-score")


def _refused(error: Exception, code: int) -> int:
    reasons = error.reasons if isinstance(error, NotReady) else (str(error),)
    for reason in reasons:
        print(f"twinstar-score: {reason}", file=sys.stderr)
    return code


def _as_text(summary: dict[str, Any]) -> str:
    return "\n".join(f"{name}: {value}" for name, value in summary.items())


if __name__ == "__main__":
    main()
