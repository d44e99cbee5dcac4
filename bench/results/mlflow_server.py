"""How to start MLflow's web page over a database, with as few processes as MLflow allows."""

from __future__ import annotations

import os
import socket
import sys
from dataclasses import dataclass

from bench.results.mlflow import ENVIRONMENT, create_database


@dataclass(frozen=True)
class ServerCommand:
    """How to start MLflow's web page: pass `env` whole, it holds this process's environment too."""

    command: tuple[str, ...]
    env: dict[str, str]
    url: str


def server_command(tracking_uri: str, *, host: str = "127.0.0.1", port: int = 5000) -> ServerCommand:
    """The MLflow server over a database, with the fewest processes MLflow allows (two: a parent and one worker).

    Creates a local database that is missing. Raises OSError when the port is taken.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            message = (
                f"cannot listen on {host}:{port} ({error.strerror}): is MLflow running already? else use another --port"
            )
            raise OSError(message) from None
    create_database(tracking_uri)
    command = (sys.executable, "-m", "mlflow", "server", "--backend-store-uri", tracking_uri)
    options = ("--host", host, "--port", str(port), "--workers", "1", "--uvicorn-opts", "--log-level warning")
    env = {**ENVIRONMENT, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **os.environ}
    return ServerCommand((*command, *options), env, f"http://{host}:{port}")
