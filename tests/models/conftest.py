"""Fixtures of the tests of models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers import liven
from small_sams import SPECS
from torch import nn

from autosam.models.sam import SAMS


@pytest.fixture(params=SPECS)
def backend(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Name of a tiny SAM of each backend, and a file of random weights for it."""
    spec = SPECS[request.param]
    monkeypatch.setitem(SAMS, spec.name, spec)
    torch.manual_seed(0)
    network = spec.build(spec)
    assert isinstance(network, nn.Module)
    if spec.name in ("mobile_sam", "lite"):  # the others are lively already
        liven(network)
    torch.save(network.state_dict(), tmp_path / "sam.pth")
    return spec.name, tmp_path / "sam.pth"
