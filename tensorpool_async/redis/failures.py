"""What it means that the server cannot be used, and what to do about it."""

from __future__ import annotations

from redis.exceptions import AuthenticationError, NoPermissionError

from tensorpool_async.errors import LimiterUnavailable


LONGEST_TEXT = 200
"""Characters that are kept of what the server says."""

HINTS: tuple[tuple[str, str], ...] = (
    ("READONLY", "it is a replica: give the address of the primary, or one that follows a failover"),
    ("ReadOnlyError", "it is a replica: give the address of the primary, or one that follows a failover"),
    ("MasterDownError", "it is a replica whose primary is down"),
    ("OutOfMemoryError", "its memory is full: raise maxmemory, or let it evict keys"),
    ("BusyLoadingError", "it is still loading its data"),
    (
        "MovedError",
        "it is part of a cluster, and another node has the key: give a server without cluster mode",
    ),
    ("AskError", "it is part of a cluster, and the key is on its way to another node"),
    ("ClusterDownError", "it is part of a cluster that is down"),
    ("NoPermissionError", "its user may not run the limiter's script: allow EVAL, EVALSHA and the key"),
    ("AuthenticationError", "it does not accept the password"),
)
"""By a word of the error's class or text."""

PERMANENT = AuthenticationError | NoPermissionError


def reason_of(error: Exception, timeout: float) -> str:
    """Return why the server cannot be used, as part of a sentence."""
    if isinstance(error, TimeoutError):
        return f"no answer within {timeout:g} s"
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    printable = "".join(character if character.isprintable() else " " for character in text[:LONGEST_TEXT])
    hint = next((hint for word, hint in HINTS if word in printable), None)
    return printable if hint is None else f"{printable}; {hint}"


def unavailable(error: Exception, timeout: float) -> LimiterUnavailable:
    """Return the error that those who wait get where the server cannot be used."""
    return LimiterUnavailable(
        f"the server that shares the rate limit cannot be used ({reason_of(error, timeout)}); nothing was sent",
        permanent=isinstance(error, PERMANENT),
    )
