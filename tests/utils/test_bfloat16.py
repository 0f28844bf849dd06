"""Where bfloat16 is used."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from autosam.utils.device import gains_from_bf16, half_precision, trains_in_bf16

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("capabilities", "encodes", "trains"),
    [
        ({"amx_bf16": True, "avx512_bf16": True}, True, True),
        ({"avx512_bf16": True, "amx_bf16": False}, True, False),
        ({"avx2": True}, False, False),
        (None, False, False),
    ],
)
def test_the_instructions_of_a_processor_decide(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict | None, encodes: bool, trains: bool
) -> None:
    if capabilities is None:  # torch before 2.10
        monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    else:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert gains_from_bf16(CPU) == encodes
    assert trains_in_bf16("auto", CPU) == trains
    assert trains_in_bf16("bf16", CPU)
    assert not trains_in_bf16("no", CPU)


@pytest.mark.parametrize("by_name", [False, True])
def test_depthwise_convolutions_that_get_gradients_stay_in_float32(by_name: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 8, 9, 9, requires_grad=True)
    weight = torch.randn(8, 1, 3, 3, requires_grad=True)
    options = {"bias": None, "stride": 2, "padding": 1, "dilation": 1, "groups": 8}

    def depthwise() -> torch.Tensor:
        return F.conv2d(x, weight, **options) if by_name else F.conv2d(x, weight, *options.values())

    exact = depthwise()
    expected = torch.autograd.grad(exact.square().sum(), (x, weight))
    with half_precision(CPU, True):
        own = depthwise()
        assert F.conv2d(x, torch.randn(8, 8, 1, 1)).dtype == torch.bfloat16
        assert (x.flatten(1) @ x.flatten(1).T).dtype == torch.bfloat16
        assert F.conv2d(x.bfloat16(), weight, groups=8).dtype == torch.float32
        with torch.no_grad():
            assert depthwise().dtype == torch.bfloat16
        assert F.conv2d(x.detach(), weight.detach(), groups=8).dtype == torch.bfloat16
        computed = F.conv2d(input=x, weight=weight.bfloat16(), groups=8)
        assert computed.dtype == torch.float32
        mixed = torch.eye(72).bfloat16() @ weight.flatten()[:, None]  # computed in the autocast
        assert F.conv2d(x, mixed.view_as(weight), groups=8).dtype == torch.float32
    assert own.dtype == torch.float32
    assert torch.equal(own, exact)
    found = torch.autograd.grad(own.square().sum(), (x, weight))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    with half_precision(CPU, False):
        assert F.conv2d(x, torch.randn(8, 8, 1, 1)).dtype == torch.float32
    assert depthwise().dtype == torch.float32


def test_a_network_trains_in_bfloat16_as_in_float32() -> None:
    """Gradients of a network with every kind of layer point the same way."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU6(),
        nn.Conv2d(16, 16, 5, padding=2, groups=16),
        nn.GELU(),
        nn.ConvTranspose2d(16, 8, 2, stride=2),
        nn.Flatten(2),
        nn.LayerNorm(256),
        nn.Linear(256, 4),
    )
    x = torch.randn(4, 3, 8, 8)
    found = []
    for enabled in (False, True):
        network.zero_grad()
        with half_precision(CPU, enabled):
            out = network(x)
        assert out.dtype == (torch.bfloat16 if enabled else torch.float32)
        out.float().square().mean().backward()
        found.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
    assert torch.cosine_similarity(*found, dim=0) > 0.999
