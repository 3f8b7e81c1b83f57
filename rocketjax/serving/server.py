"""The HTTP server: a socket to listen on and uvicorn around the app."""

import socket
from typing import TYPE_CHECKING

from rocketjax.serving.requests import Limits

if TYPE_CHECKING:
    import uvicorn
    from starlette.types import ASGIApp


def make_server(app: "ASGIApp", limits: Limits) -> "uvicorn.Server":
    """Serves the app; told to end, it finishes the requests at hand."""
    import uvicorn

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


def listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections. Raises InputError where the address cannot be had."""
    from rocketjax.runtime.errors import InputError

    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=1024)
    except (OSError, UnicodeError) as error:  # UnicodeError: it cannot be a host's name
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"--host {host} --port {port}: {reason}; give another, or --port 0 for any "
            "port that is free"
        ) from error
