"""The HTTP server: a listening socket, and uvicorn around the app."""

import asyncio
import contextlib
import socket

import uvicorn
from starlette.types import ASGIApp

from rocketjax.runtime.errors import InputError
from rocketjax.serving.requests import Limits


def listen(host: str, port: int) -> socket.socket:
    """Opens a socket that accepts connections; port 0 takes any free one.

    Raises:
        InputError: the address is unknown, in use or not allowed; host and port are named.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=1024)
    except (OSError, UnicodeError) as error:  # UnicodeError: not a valid host name
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"--host {host} --port {port}: {reason}; choose another, or --port 0 for any free port"
        ) from error


def refuse_running_loop() -> None:
    """Raises InputError inside a running event loop: a server would need one of its own."""
    with contextlib.suppress(RuntimeError):  # none runs
        asyncio.get_running_loop()
        raise InputError(
            "an event loop runs here already, as in a notebook; start the server as a process of "
            "its own (subprocess.Popen([sys.executable, '-m', 'rocketjax.serve', '--model', ..])), "
            "or search without one: rocketjax.load(..).search(..)"
        )


def make_server(app: ASGIApp, limits: Limits) -> uvicorn.Server:
    """Makes a server for the app that finishes its running requests when it is stopped."""
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        lifespan="off",
        timeout_graceful_shutdown=int(limits.timeout) + 1,
    )
    return uvicorn.Server(config)
