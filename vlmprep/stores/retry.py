"""Trying again: stores answer 500, 503 and nothing at all, and mostly mean it for a moment.

The clients beneath fsspec try again by themselves; this comes on top, for what they give up or do not know, and says in the
end what was tried.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from vlmprep.schema.errors import StopRun

__all__ = ["StoreTrouble", "retried"]

Result = TypeVar("Result")

TRIES = 6
FIRST_SECONDS = 0.5
LONGEST_SECONDS = 15.0
"""Between tries: doubled from the first to the longest, half of it by chance, so that many processes do not come back at once."""
FINAL = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, NotImplementedError)
"""Answers, not troubles: they are the caller's."""
DENIED = (PermissionError, ImportError, ValueError, TypeError)
"""Trying again changes nothing."""


class StoreTrouble(StopRun):
    """A store does not give or take something, however often it is asked."""

    @property
    def lasting(self) -> bool:
        """Whether it is not the store's state but the question: a URL of no kind, a file that may not be read."""
        return isinstance(self.__cause__, DENIED)


def retried(action: Callable[[], Result], what: str) -> Result:
    """Do something with a store, several times if need be.

    Args:
        action: What to do; doing it twice does no harm.
        what: In words, for the message: `s3://bucket/name cannot be read`.

    Raises:
        StoreTrouble: It failed every time, or in a way that stays.
        FileNotFoundError, FileExistsError, NotADirectoryError: The store's answer.
    """
    for tried in range(1, TRIES + 1):
        try:
            return action()
        except (*FINAL, StopRun):
            raise
        except DENIED as error:
            raise _trouble(what, error) from error
        except Exception as error:  # each file system behind a URL has errors of its own
            if tried == TRIES or type(error).__name__.endswith("CredentialsError"):
                raise _trouble(what, error, tried) from error
            time.sleep(_pause(tried))
    raise AssertionError("the last try returns or raises")


def _pause(tried: int) -> float:
    """Seconds to wait after so many tries."""
    return min(FIRST_SECONDS * 2.0 ** (tried - 1), LONGEST_SECONDS) * random.uniform(0.5, 1.0)


def _trouble(what: str, error: Exception, tried: int = 1) -> StoreTrouble:
    times = f" {tried} times" if tried > 1 else ""
    reason = str(error) or type(error).__name__
    hint = "What was finished is kept; once the store answers, run the same command again."
    if isinstance(error, DENIED) or tried == 1:
        hint = "Check the name, the package for this kind of URL, and the credentials where its client looks for them."
    return StoreTrouble(f"{what}, tried{times}: {reason}" if times else f"{what}: {reason}", hint)
