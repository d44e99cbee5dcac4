"""Processes that work for another one."""

from __future__ import annotations

import multiprocessing
import os
import threading
from multiprocessing import connection
from multiprocessing.connection import Connection


def end_with_parent(*leashes: Connection) -> None:
    """For a process of a pool: it otherwise waits for work for ever when its parent is killed, as Ctrl-C may do.

    leashes: ends of pipes; it also ends as soon as the other end of one is closed, in the middle of its work.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        connection.wait([parent.sentinel, *leashes])
        os._exit(1)

    threading.Thread(target=watch, name="orphan", daemon=True).start()
