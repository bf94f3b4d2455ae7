"""What a fleet needs of the client. `TensorPool` has all of it, so no module of fleets imports the client."""

from __future__ import annotations

from functools import cached_property
from typing import Protocol

from tensorpool_async.events import Dispatcher
from tensorpool_async.flow.limiter import Limiter
from tensorpool_async.resources.clusters import Clusters
from tensorpool_async.resources.storage import Storage


class RequestCounts(Protocol):
    """How many HTTP attempts a client has made so far."""

    @property
    def requests(self) -> int:
        """All HTTP attempts."""
        ...

    @property
    def retries(self) -> int:
        """Attempts that repeated a request."""
        ...

    @property
    def rate_limited(self) -> int:
        """Answers 429, and 503 with Retry-After."""
        ...


class FleetClient(Protocol):
    """The part of `TensorPool` that fleets use."""

    # Declared as `TensorPool` declares them: pyright does not accept a cached property for a plain one.

    @cached_property
    def clusters(self) -> Clusters:
        """The clusters of the account."""
        ...

    @cached_property
    def storage(self) -> Storage:
        """The storage volumes of the account."""
        ...

    @property
    def limiter(self) -> Limiter:
        """The limiter of the client's HTTP attempts."""
        ...

    @property
    def events(self) -> Dispatcher:
        """The dispatcher of events to the client's listeners."""
        ...

    def statistics(self) -> RequestCounts:
        """Return the counts at this moment."""
        ...
