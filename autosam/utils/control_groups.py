"""The control groups of this process (Linux): a container, a job of a batch system, a service."""

from __future__ import annotations

import contextlib
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")


def group_folders(controller: str) -> list[Path]:
    """Find the folders of this process's control group and of those above it; a limit of any of
    them counts.

    Args:
        controller: "cpu" or "memory".

    Returns:
        Folders of version 2 and of version 1 (cgroups(7)). Some may not exist: a container sees its
        own group as the root.
    """
    found = [ROOT, ROOT / controller]
    with contextlib.suppress(OSError, ValueError):
        for line in OWN.read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and controller not in controllers.split(","):
                continue
            top = ROOT / controller if controllers else ROOT  # version 2 names none
            own = top / path.lstrip("/")
            found += [own, *(folder for folder in own.parents if top in folder.parents)]
    return list(dict.fromkeys(found))
