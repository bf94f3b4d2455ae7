"""The RateLimit headers of an answer, in their three families, and what they mean for the pace.

| family | example |
|---|---|
| structured, newer drafts of the IETF | `RateLimit: "default";r=50;t=30`, `RateLimit-Policy: "default";q=100;w=60` |
| structured, older drafts | `RateLimit: limit=100, remaining=50, reset=30`, `RateLimit-Policy: 100;w=60` |
| one header each | `RateLimit-Limit: 100, 100;w=60`, `RateLimit-Remaining: 50`, `RateLimit-Reset: 30` |
| the same with `X-` | `X-RateLimit-Limit: 100`, `X-RateLimit-Remaining: 50`, `X-RateLimit-Reset: 1767225600` |

Nothing obliges a server to use any of them as it is described anywhere, so whatever makes no sense is ignored.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import attrs

from tensorpool_async.protocol.retry_after import LONGEST, clock_offset, parse_retry_after


QUOTA = 10.0
"""Seconds. Whoever has to wait this long has used up a quota: going slower before would not have helped, only fewer."""

LONGEST_HEADER = 1000
"""Characters. What is longer describes no limit."""

LARGEST = 1e9
"""Requests. A larger limit is none, or no number of requests."""

EARLIEST_EPOCH = 1e9
"""Seconds since 1970 that a date of our time has at least: a larger number is a date, a smaller one a duration."""

_QUOTED = r'"(?:[^"\\]|\\.)*"'
_NUMBER = re.compile(r"\d{1,15}(?:\.\d{1,15})?", re.ASCII)
_ITEM = re.compile(rf"(?:{_QUOTED}|[^\",])+")
_PART = re.compile(rf"(?:{_QUOTED}|[^\";])+")


@attrs.frozen(kw_only=True)
class Limits:
    """What an engine says about how many requests it allows. What it does not say is None.

    Attributes:
        limit: Requests that are allowed within each window.
        window: Seconds that a window lasts.
        remaining: Requests that are left until the reset.
        reset: Seconds from the answer until there are more.
        longest_wait: Seconds that anybody waits because of it, at most.
    """

    limit: float | None = None
    window: float | None = None
    remaining: float | None = None
    reset: float | None = None
    longest_wait: float = LONGEST

    @property
    def pause(self) -> float:
        """Seconds to wait for the reset, as far as that is believed."""
        return min(self.reset or 0.0, self.longest_wait)

    @property
    def exhausted(self) -> bool:
        """Whether nothing is left, and it is known until when."""
        return self.remaining is not None and self.remaining < 1 and self.reset is not None

    @property
    def is_quota(self) -> bool:
        """Whether this is a quota of a long time, and not a rate."""
        return (self.window or self.reset or 0.0) >= QUOTA

    @property
    def per_second(self) -> float | None:
        """Requests per second that the limit bounds the pace to; None where it does not.

        A rate is kept from one second to the next. The first half of a quota may be used as fast as anybody likes;
        the other half is spread over the time until the reset, so that a destroy never waits for that.
        """
        slowest = 1.0 / self.longest_wait if self.longest_wait else 0.0
        average = max(slowest, self.limit / self.window) if self.limit and self.window else None
        if not self.is_quota or self.remaining is None or not self.reset:
            return average
        if self.limit is None or self.remaining >= self.limit / 2:
            return None
        rate = max(self.remaining / self.reset, average or 0.0)
        return max(rate, slowest) if rate else None


def limits_of(headers: Mapping[str, str], received_at: float) -> Limits | None:
    """Return what the RateLimit headers of an answer say, or None where there are none that make sense.

    Of several policies, the one that is nearest to letting nothing through is returned.

    Args:
        headers: The answer's headers, in a mapping that ignores case.
        received_at: When it was received, in seconds since the epoch.
    """
    # This runs for every answer, and hardly any has such a header: four look-ups have to do.
    structured = headers.get("RateLimit")
    policy = headers.get("RateLimit-Policy")
    if structured is not None or policy is not None:
        found = list(_structured(structured or "", policy or ""))
        if found:
            return min(found, key=_tightness)
    for prefix, reset in (
        ("RateLimit-", headers.get("RateLimit-Reset")),
        ("X-RateLimit-", headers.get("X-RateLimit-Reset")),
    ):
        if reset is not None:
            limits = _separate(headers, prefix, reset, received_at)
            if limits is not None:
                return limits
    return None


def is_quota(retry_after: float, limits: Limits | None) -> bool:
    """Tell a 429 that ends a quota from one that came because requests followed each other too fast.

    After a quota's end a pause is right, and a lower pace is not: what is allowed after the reset is as much as before.

    - A wait of ten seconds or more is a quota's. Whoever counts per second lets somebody in again much sooner.
    - A shorter wait is a quota's where the headers say that nothing is left of a window of ten seconds or more: its
      end happens to be near.
    """
    return retry_after >= QUOTA or (limits is not None and limits.exhausted and limits.is_quota)


def _tightness(limits: Limits) -> tuple[float, float, float]:
    inf = float("inf")
    if limits.exhausted:
        return (0.0, -(limits.reset or 0.0), 0.0)
    bound, remaining = limits.per_second, limits.remaining
    return (1.0, inf if bound is None else bound, inf if remaining is None else remaining)


def _structured(text: str, policy_text: str) -> Iterator[Limits]:
    policies = dict(_items(policy_text))
    others = {name for name, parameters in policies.items() if not _counts_requests(parameters)}
    seen = False
    for name, parameters in _items(text):
        policy = policies.get(name, {})
        remaining, reset = _count(parameters.get("r")), _seconds(parameters.get("t"))
        if remaining is not None and name not in others and _counts_requests(parameters):
            seen = True
            yield _limits(_count(policy.get("q")), _seconds(policy.get("w")), remaining, reset)
    old = {name: value for name, _, value in (item.partition("=") for item in _split(_ITEM, text))}
    limit, remaining = _count(old.get("limit")), _count(old.get("remaining"))
    if limit is not None or remaining is not None:
        seen = True
        yield _limits(limit, _window_of(policy_text, limit), remaining, _seconds(old.get("reset")))
    for name, parameters in () if seen else policies.items():
        quota, window = _count(parameters.get("q", name)), _seconds(parameters.get("w"))
        if quota and window and name not in others:
            yield _limits(quota, window, None, None)


def _separate(headers: Mapping[str, str], prefix: str, reset: str, received_at: float) -> Limits | None:
    limit_text = headers.get(prefix + "Limit", "")
    first = next(_split(_ITEM, limit_text), "")
    limit = _count(first.partition(";")[0].strip())
    window = _window_of(limit_text, limit) or _window_of(headers.get("RateLimit-Policy", ""), limit)
    remaining = _count(headers.get(prefix + "Remaining", "").strip())
    if limit is None and remaining is None:
        return None
    return _limits(limit, window, remaining, _reset(reset, received_at, headers.get("Date")))


def _limits(
    limit: float | None, window: float | None, remaining: float | None, reset: float | None
) -> Limits:
    return Limits(limit=limit or None, window=window or None, remaining=remaining, reset=reset)


def _split(pattern: re.Pattern[str], text: str) -> Iterator[str]:
    if len(text) <= LONGEST_HEADER:
        yield from (match[0].strip() for match in pattern.finditer(text))


def _items(text: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield each member of a structured list: its value, and its parameters."""
    for item in _split(_ITEM, text):
        parts = list(_split(_PART, item))
        pairs = (parameter.partition("=") for parameter in parts[1:])
        yield "".join(parts[:1]), {key.strip(): content.strip() for key, _, content in pairs}


def _counts_requests(parameters: Mapping[str, str]) -> bool:
    """Whether a policy is about requests; there are some about bytes, or about what runs at the same time."""
    return parameters.get("qu", '"requests"').strip('"') == "requests"


def _window_of(text: str, limit: float | None) -> float | None:
    """Return the window of the policy that allows `limit` requests, or of the only one."""
    windows = [(_count(value), _seconds(parameters.get("w"))) for value, parameters in _items(text)]
    windows = [(quota, window) for quota, window in windows if window]
    own = [window for quota, window in windows if quota == limit]
    return own[0] if own else None


def _number(text: str | None) -> float | None:
    return float(text) if text is not None and _NUMBER.fullmatch(text) else None


def _count(text: str | None) -> float | None:
    number = _number(text)
    return number if number is not None and number <= LARGEST else None


def _seconds(text: str | None) -> float | None:
    number = _number(text)
    return number if number is not None and number <= LONGEST else None


def _reset(text: str, received_at: float, date: str | None) -> float | None:
    """Return the seconds until a reset that is a duration or a time of day, in seconds or, if need be, milliseconds."""
    now = received_at + clock_offset(date, received_at)
    number = _number(text.strip())
    if number is None:
        return parse_retry_after(text, now)
    if number <= LONGEST:
        return number
    for unit in (1.0, 1000.0):
        seconds = number / unit
        if seconds >= EARLIEST_EPOCH:
            seconds -= now
            if seconds <= LONGEST:
                return max(0.0, seconds)
        elif seconds <= LONGEST:
            return seconds
    return None
