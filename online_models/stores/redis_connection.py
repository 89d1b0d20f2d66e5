"""One connection to Redis on an event loop, as thin as it gets: a command is one write, its reply one callback.

- redis-py's asynchronous client costs 63 us of CPU time for an MGET of two keys where this costs 24, and 175 us for one of
  64 keys where this costs 59 (medians of one run, unix socket, uvloop): at one connection that is a fifth of a request.
- Replies come in the order of the commands. A connection that is given up is aborted, and a late reply dies with it.
- Addresses are redis-py's own, its TLS options too.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self, cast

import hiredis
from redis.asyncio.connection import SSLConnection, parse_url

from online_models.errors import StoreError

Reply = Any
"""What hiredis makes of a reply: bytes, int, None, a list of them, or a `ReplyError`; an `OSError` when none came."""

Command = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Address:
    """Where Redis listens, and the commands that open a connection there."""

    path: str
    host: str
    port: int
    tls: ssl.SSLContext | None
    greeting: tuple[Command, ...]

    @classmethod
    def of(cls, url: str) -> Self:
        """From `redis://`, `rediss://` or `unix://`, with user, password and `db`. Raises ValueError for others.

        >>> Address.of("unix:///run/redis.sock?db=3").greeting
        (('SELECT', '3'), ('PING',))
        """
        known: dict[str, Any] = {**parse_url(url)}
        tls = known.pop("connection_class", None) is SSLConnection
        user, password, db = known.get("username"), known.get("password"), known.get("db", 0)
        greeting = [("AUTH", *filter(None, (user, password)))] if password else []
        return cls(
            path=known.get("path", ""),
            host=known.get("host", "localhost"),
            port=known.get("port", 6379),
            tls=SSLConnection(**known).ssl_context.get() if tls else None,
            greeting=(*greeting, *([("SELECT", str(db))] if db else []), ("PING",)),
        )


class RedisConnection(asyncio.Protocol):
    """An open connection; used by the event loop that opened it."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader()
        self._awaited: deque[Callable[[Reply], None]] = deque()
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def open(cls, address: Address) -> Self:
        """Connect, and return when Redis has answered the greeting.

        Raises
        ------
        OSError
            When nobody listens, or the connection breaks.
        StoreError
            When Redis refuses the greeting.
        """
        loop = asyncio.get_running_loop()
        if address.path:
            _, connection = await loop.create_unix_connection(cls, address.path)
        else:
            _, connection = await loop.create_connection(cls, address.host, address.port, ssl=address.tls)
        try:
            for command in address.greeting:
                await connection._ask(command)
        except BaseException:
            connection.abort()
            raise
        return connection

    @property
    def is_open(self) -> bool:
        """Whether commands can still be sent."""
        return self._transport is not None and not self._transport.is_closing()

    def send(self, command: Command, answered: Callable[[Reply], None]) -> None:
        """Write a command; `answered` is called once, with the reply or with an OSError."""
        if self._transport is None:
            answered(ConnectionResetError("the connection was closed"))
            return
        self._awaited.append(answered)
        self._transport.write(hiredis.pack_command(command))  # type: ignore[arg-type] # typed as a tuple of one

    def abort(self) -> None:
        """Give the connection up: no reply comes any more, and what was awaited gets an OSError."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: the socket is connected."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes came; each complete reply goes to whoever awaits it."""
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not False and self._awaited:
                self._awaited.popleft()(reply)
        except hiredis.ProtocolError:
            reply = None
        if reply is not False:  # not the protocol, or not an answer to anything
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the socket is closed; nothing awaited will come."""
        self._transport = None
        lost = exc if isinstance(exc, OSError) else ConnectionResetError("the connection was closed")
        while self._awaited:
            self._awaited.popleft()(lost)

    async def _ask(self, command: Command) -> None:
        """Send one command and wait. Raises StoreError for an error reply, OSError when the connection breaks."""
        said: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self.send(command, lambda reply: None if said.done() else said.set_result(reply))
        reply = await said
        if isinstance(reply, OSError):
            raise reply
        if isinstance(reply, hiredis.ReplyError):
            raise StoreError(f"Redis: {command[0]}: {reply}")
