"""Children that hear Ctrl-C, whatever this process was started with."""

from __future__ import annotations

import signal

__all__ = ["hear_ctrl_c"]


def hear_ctrl_c() -> None:
    """For `preexec_fn`: shells start jobs in the background with Ctrl-C ignored, and children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
