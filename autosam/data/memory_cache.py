"""Keep values in memory, as many as fit into a share of what is free."""

from __future__ import annotations

import os
from collections.abc import Hashable
from typing import Any

from torch.utils.data import get_worker_info

from autosam.utils.memory import free_bytes

SHARE = 0.2
"""Of the free memory, for all workers and training processes of a machine together."""


class MemoryCache:
    """The values that were put first, until they fill this process's part of `SHARE`. Each worker
    process has its own."""

    def __init__(self) -> None:
        self._found: dict[Hashable, Any] = {}
        self._owner, self._room = 0, 0.0

    def __getstate__(self) -> dict[str, Any]:
        return {"_found": {}, "_owner": 0, "_room": 0.0}  # a worker begins with an empty one

    def get(self, key: Hashable) -> Any:
        """Look a value up; None if it is not kept."""
        return self._found.get(key)

    def put(self, key: Hashable, value: Any, size: int) -> None:
        """Keep a value if there is room.

        Args:
            key: of the value.
            value: not changed by anyone afterwards.
            size: its bytes.
        """
        if self._owner != os.getpid():  # its first value here
            workers = getattr(get_worker_info(), "num_workers", 1)
            processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
            self._owner, self._room = os.getpid(), SHARE * free_bytes() / workers / processes
        if size <= self._room:
            self._room -= size
            self._found[key] = value
