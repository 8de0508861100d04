"""The process: its address, its signals, its end."""

from __future__ import annotations

import errno
import ipaddress
import math
import signal
import socket
from types import FrameType

import uvicorn
from fastapi import FastAPI

from compt_fast.serving.batcher import Answering
from compt_fast.utils.errors import FIRST_SIGNAL, InputError


def bound(host: str, port: int) -> socket.socket:
    """A socket that holds an address, and hands nobody over before it is served. Raises `InputError` where it cannot
    be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError) as error:
        raise InputError(f"--host {host}: no address of this machine ({error})") from None
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind(address)
        made.listen(1)  # a socket that is bound alone does not keep the port from others
    except OSError as error:
        made.close()
        why = {
            errno.EADDRINUSE: "another process listens there; take another port, or 0 for a free one",
            errno.EADDRNOTAVAIL: "no address of this machine",
            errno.EACCES: "ports below 1024 are the administrator's",
        }
        said = why.get(error.errno or 0, error.strerror)
        raise InputError(f"--host {host} --port {port}: {said}") from None
    return made


def is_local(listening: socket.socket) -> bool:
    """Whether only this machine reaches a socket."""
    return ipaddress.ip_address(listening.getsockname()[0]).is_loopback


def url_of(listening: socket.socket) -> str:
    """Where a socket is reached."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server(uvicorn.Server):
    """Serves until a signal asks it to end: then it accepts no more requests (503), answers those that it has, and
    ends. A second signal ends it at once.
    """

    def __init__(self, app: FastAPI) -> None:
        """`app` is one of `make_app`."""
        service = app.state.service
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=math.ceil(service.limits.timeout),  # for answers on their way, and bodies
            lifespan="on",
            # Those that the extra `serve` brings; others behave otherwise, and packages of Ray bring others.
            loop="asyncio",
            http="h11",
            ws="none",
        )
        super().__init__(config)
        self.asked: int | None = None  # the number of the signal
        self._batcher: Answering = service.batcher

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Note a signal; what it asks for is done by the loop."""
        if self.asked is not None:
            self.should_exit = self.force_exit = True
        self.asked = sig

    async def on_tick(self, counter: int) -> bool:
        """Look, ten times a second, whether it is time to end."""
        if self.asked is not None:
            self._batcher.refuse()
            self.should_exit |= self._batcher.idle
        return await super().on_tick(counter)


def serve(app: FastAPI, listening: socket.socket) -> int:
    """Serve an application of `make_app` on a socket until a signal; returns 128 and the signal's number."""
    server = Server(app)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as under nohup
        signal.signal(signal.SIGHUP, server.handle_exit)
    server.run(sockets=[listening])
    return FIRST_SIGNAL + server.asked if server.asked else 0
