"""The end of a process that has closed everything it must."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

EXIT_PART = 3
"""uvicorn's own, for a part that could not start; its reason is in the log."""


def end_process(code: int) -> NoReturn:
    """Ends the process at once: threads that still compute are not waited for, and no interpreter is taken apart.

    Args:
        code: the exit status.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
