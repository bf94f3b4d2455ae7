"""SSH: the keys that go on new clusters, and how to log in."""

from __future__ import annotations

import platform

from tensorpool_async.models.account import SSHKey
from tensorpool_async.models.cluster import Instance
from tensorpool_async.protocol.commands import login
from tensorpool_async.protocol.decoders import as_list, as_nothing, as_text
from tensorpool_async.protocol.public_keys import checked_public_key
from tensorpool_async.protocol.requests import Request, query_of
from tensorpool_async.transport.attempts import Transport


KeyLike = SSHKey | str
"""A key, or its id."""

InstanceLike = Instance | str
"""An instance, or its id."""


class SSH:
    """SSH, as `tp.ssh`.

    Attributes:
        keys: The public keys that go on new clusters.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.keys: SSHKeys = SSHKeys(transport)

    async def command(self, instance: InstanceLike) -> list[str]:
        """Return the command that logs in to an instance, as a list of arguments (`GET /ssh/{instance_id}`).

        It is not run. It is built anew from what the engine says: host, port, user, jump hosts, a private key below the
        home folder, and options of ssh that run nothing here, forward nothing and name no other file.

        Raises:
            CommandRefused: The engine's command is no `ssh`, does more than connect, or needs a shell.
            ConflictError: The instance is not running (409).
            NotFound: There is no such instance.
            ValueError: The instance has no id.
        """
        instance_id = instance.id if isinstance(instance, Instance) else instance
        query = query_of(system=platform.system())
        text = await self._transport.send(
            Request("GET", "/ssh/{id}", as_text("command"), key=instance_id or "", query=query)
        )
        return login(text)


class SSHKeys:
    """The public keys that go on new clusters, as `tp.ssh.keys`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def add(self, public_key: str, name: str | None = None) -> SSHKey:
        """Save a public key (`POST /user/ssh-key/add`).

        It goes on all new clusters, and for a member of an organization on the organization's as well.

        Args:
            public_key: The key in OpenSSH's form.
            name: A name; the engine takes the user's e-mail address without one.

        Raises:
            ValueError: It is a private key, or empty; its text is not shown.
            ValidationError: The engine does not take it for a key (422).
            AmbiguousOutcomeError: The answer was lost; `list` tells whether it was saved.
        """
        public_key = checked_public_key(public_key)
        body = {"public_key": public_key} | ({"name": name} if name is not None else {})
        request = Request("POST", "/user/ssh-key/add", as_text("key_id"), json=body, name=name)
        key_id = await self._transport.send(request)
        return SSHKey(id=key_id, name=name, public_key=public_key)

    async def remove(self, key: KeyLike) -> None:
        """Forget a public key (`DELETE /user/ssh-key/remove/{key_id}`); clusters that have it keep it.

        Raises:
            NotFound: There is no such key.
        """
        key_id = key.id if isinstance(key, SSHKey) else key
        await self._transport.send(Request("DELETE", "/user/ssh-key/remove/{id}", as_nothing, key=key_id))

    # Last of the public methods, since within the class its name hides the type from what follows.
    async def list(self, *, organization: bool = False) -> list[SSHKey]:
        """List the saved public keys (`GET /user/ssh-key/list`).

        Args:
            organization: List those of the organization instead of one's own.
        """
        decode = as_list("keys", SSHKey)
        return await self._transport.send(
            Request("GET", "/user/ssh-key/list", decode, query=query_of(include_org=organization))
        )
