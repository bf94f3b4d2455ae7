"""Finding resources and their requests at the engine: by name, and by what the engine is doing with them."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import attrs

from tensorpool_async.errors import DecodeError, NotFound, StatusError
from tensorpool_async.models.enums import OperationKind, RequestStatus
from tensorpool_async.models.request import RequestInfo
from tensorpool_async.protocol.decoders import as_list
from tensorpool_async.protocol.operation_specs import (
    DELETE_STARTED,
    OPERATION_SPECS,
    ResourceSpec,
    status_text,
)
from tensorpool_async.protocol.requests import LONGEST_ID, Request, is_id, query_of
from tensorpool_async.protocol.tokens import OperationRef
from tensorpool_async.transport.attempts import Transport


@attrs.frozen
class Found:
    """A resource that has the name of one whose creation was lost.

    Attributes:
        kind: The kind of create that makes such resources.
        resource_id: Its id.
        created_at: When it was made, as ISO 8601 text; None where nothing says.
        request_id: The request that made it; None where nothing says.
    """

    kind: OperationKind
    resource_id: str
    created_at: str | None = None
    request_id: str | None = None


class Lookup:
    """Asks the engine of one client what is there."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def all(self, spec: ResourceSpec, *, organization: bool = False) -> list[Any]:
        """Return all resources of a kind.

        Args:
            spec: The kind.
            organization: Whether to list those of the organization instead of one's own.
        """
        query = query_of(include_org=organization, instances=True if spec.info_takes_name else None)
        return await self._transport.send(spec.read_all(query))

    async def by_name(self, spec: ResourceSpec, name: str) -> Any | None:
        """Return the resource of a name, the youngest of several; None where there is none.

        Raises:
            DecodeError: The engine gives it an id that cannot be asked for.
        """
        found = None
        if spec.info_takes_name:
            # Only a third party reports that the engine takes names here, so the list is asked as well.
            with suppress(NotFound):
                found = await self._transport.send(spec.read(name))
        if found is None:
            named = [model for model in await self.all(spec) if model.name == name]
            found = max(named, key=lambda model: model.created_at or "", default=None)
        if found is not None and not is_id(found.id):
            raise DecodeError(f"the id of {name!r} cannot be asked for: {found.id[:LONGEST_ID]!r}")
        return found

    async def find_creation(self, spec: ResourceSpec, kind: OperationKind, name: str) -> Found | None:
        """Return the living resource of a name, with the request that made it."""
        model = await self.by_name(spec, name)
        if model is None or model.name != name or status_text(model).casefold() == "destroyed":
            return None
        creations = await self.requests(spec, model.id, kind)
        creation = creations[0] if creations else None
        return Found(
            kind,
            model.id,
            (creation.created_at if creation else None) or model.created_at,
            creation.request_id if creation else None,
        )

    async def ref_of(self, resource_id: str, kind: OperationKind) -> OperationRef:
        """Return what identifies a creation or deletion that is under way: its request, or else the resource itself."""
        spec = OPERATION_SPECS[kind]
        expected = {DELETE_STARTED: True} if spec.done_when_gone else {}
        requests = [
            request
            for request in await self.requests(spec.resource, resource_id, kind)
            if request.request_id and request.request_type == kind
        ]
        pending = [request for request in requests if not request.status.is_terminal]
        failed = [request for request in requests if request.status is RequestStatus.FAILED]
        # Of a creation that failed, only its request says why.
        latest = (pending or (failed if spec.creates else []))[:1]
        request_ids = tuple(request.request_id for request in latest if request.request_id)
        return OperationRef(kind, resource_id, request_ids, expected)

    async def requests(self, spec: ResourceSpec, resource_id: str, kind: OperationKind) -> list[RequestInfo]:
        """Return the requests of one kind about a resource; none where the engine does not tell.

        The endpoint is hardly documented, and what it would say can be seen on the resource.
        """
        if spec.operations is None:
            return []
        query = query_of(type=str(kind))
        decode = as_list("operations", RequestInfo)
        try:
            found = await self._transport.send(
                Request("GET", spec.operations, decode, key=resource_id, query=query)
            )
        except (StatusError, DecodeError):
            return []
        return [request for request in found if request.request_id is None or is_id(request.request_id)]
