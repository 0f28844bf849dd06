"""HarDNet against reference values, and through timm."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.data import resolve_data_config
from torch import Tensor, nn

from autosam.errors import CheckpointError
from autosam.models.backbones.hardnet import harmonic_links


class Golden(NamedTuple):
    """Values of the authors' network, weights and input filled by `fill` and `probe`, float64."""

    params: int
    keys: str  # SHA-256 of the state dict's "name [shape]" lines, in order
    features: dict[int, tuple[int, float, float]]  # stride: channels, mean, standard deviation
    logits: tuple[float, ...]  # the first eight
    logits_sum: float


GOLDEN = {
    "hardnet39ds": Golden(
        params=3488228,
        keys="bb8eb2e0befbf015231989e6ac7e2e0792b7a0e19f78716ac8d3c3e9c9136e6b",
        features={
            2: (48, 0.47798194942675465, 0.6821334844461591),
            4: (96, 0.13455875166743125, 0.16845554244698083),
            8: (320, 1.8166627868550305, 2.3002137671400176),
            16: (640, 0.01610231104004141, 0.020647419334150326),
            32: (1024, 9.87456956370178e-05, 0.0001756695501305843),
        },
        logits=(
            1.1538926855702384e-05,
            -6.981024232381757e-05,
            2.948676133215422e-05,
            5.248162927486774e-05,
            -6.032886825729358e-05,
            -1.7027901348130022e-05,
            7.03357289692315e-05,
            -2.4306601858036635e-05,
        ),
        logits_sum=-3.112054927451396e-05,
    ),
    "hardnet68": Golden(
        params=17565348,
        keys="8f0a7137b3967e125ef025f097f6a4b334433b541ba98de1da7f8e2a4b9449a8",
        features={
            2: (64, 0.683847594521894, 0.9485371498380766),
            4: (128, 0.3243795623803707, 0.4409091182780515),
            8: (320, 0.0012578828943761759, 0.0015695482056476235),
            16: (640, 3.646350783710596e-05, 4.662436002240468e-05),
            32: (1024, 7.118743552603447e-07, 9.860237872670256e-07),
        },
        logits=(
            3.2893712063474046e-07,
            2.3830816075583756e-07,
            -4.6898471208182836e-07,
            3.730212109206339e-08,
            4.4706321263237387e-07,
            -3.000297001862355e-07,
            -2.707434561439554e-07,
            4.5913868249195346e-07,
        ),
        logits_sum=5.698837162984562e-07,
    ),
    "hardnet68ds": Golden(
        params=4180602,
        keys="5ce5cdd2c113d0619d4e7e18f84b1d23e2401d05ef7103b99faa5d47a9fde21a",
        features={
            2: (64, 0.48093075594795287, 0.6784019903530446),
            4: (128, 0.01770811565247568, 0.023725070828899218),
            8: (320, 0.01344693322066264, 0.017519052191763664),
            16: (640, 0.0038880650973078155, 0.005257297622633738),
            32: (1024, 4.838691036259404e-05, 6.241196875622798e-05),
        },
        logits=(
            -3.020152923239939e-05,
            -1.3482970983899351e-06,
            3.099388884184772e-05,
            -1.6866016117373807e-05,
            -2.108216392628297e-05,
            2.925546292022039e-05,
            3.889479019265006e-06,
            -3.154120994165615e-05,
        ),
        logits_sum=-3.889917401112744e-05,
    ),
    "hardnet85": Golden(
        params=36670212,
        keys="e6a05fd4193c4ddf62c21a6d2441c99628627068068bb7e5e294a6500029e139",
        features={
            2: (96, 0.8417257268297673, 1.1482550820682094),
            4: (192, 1.2374695089980008, 1.5172204444741106),
            8: (320, 0.011015444497662164, 0.013608969729863174),
            16: (720, 0.0001861708296297438, 0.00025028346092967953),
            32: (1280, 5.427696620467567e-07, 7.293758162784252e-07),
        },
        logits=(
            3.9904015886960224e-07,
            -3.4174240422967746e-07,
            7.454360925779133e-08,
            2.384404934185295e-07,
            -4.0497245259035465e-07,
            3.227669473667165e-07,
            -4.2315285978293375e-08,
            -2.6412677765128393e-07,
        ),
        logits_sum=-2.2300329591697946e-08,
    ),
}
NAMES = list(GOLDEN)
SMALL = "hardnet39ds"


def wave(count: int, step: float, phase: float = 0.0) -> Tensor:
    return torch.sin(step * torch.arange(count, dtype=torch.float64) + phase)


def fill(model: nn.Module) -> None:
    """Deterministic weights; norms stay as constructed."""
    with torch.no_grad():
        for k, (name, p) in enumerate(model.named_parameters()):
            if p.dim() > 1:
                scale = (2 / p[0].numel()) ** 0.5
                p.copy_((wave(p.numel(), 0.1, k) * scale).reshape(p.shape))
            elif name.endswith(".3.bias"):
                p.zero_()


def probe(size: int = 224) -> Tensor:
    return wave(3 * size * size, 0.05).reshape(1, 3, size, size)


def make(name: str, **kwargs: Any) -> Any:
    torch.manual_seed(0)
    return timm.create_model(name, **kwargs).eval()


@pytest.fixture(scope="module")
def small() -> Any:
    """The smallest variant with known weights, float32; not to be changed."""
    model = make(SMALL)
    fill(model)
    return model


@pytest.fixture(scope="module")
def weights(small: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / f"{SMALL}.pth"
    torch.save(small.state_dict(), path)
    return path


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_golden(name: str) -> None:
    golden = GOLDEN[name]
    model = make(name).double()
    fill(model)

    lines = [f"{key} {list(value.shape)}" for key, value in model.state_dict().items()]
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == golden.keys
    assert sum(p.numel() for p in model.parameters()) == golden.params

    last, levels = model.forward_intermediates(probe())
    assert torch.equal(last, levels[-1])
    for level, (stride, (channels, mean, std)) in zip(levels, golden.features.items(), strict=True):
        assert level.shape == (1, channels, 224 // stride, 224 // stride)
        assert level.mean().item() == pytest.approx(mean, rel=1e-9, abs=0)
        assert level.std().item() == pytest.approx(std, rel=1e-9, abs=0)
    logits = model.forward_head(last)[0]
    assert logits[:8].tolist() == pytest.approx(golden.logits, rel=1e-6, abs=0)
    assert logits.sum().item() == pytest.approx(golden.logits_sum, rel=1e-6, abs=0)


def test_links() -> None:
    assert [harmonic_links(i) for i in (1, 2, 3, 4, 6, 8)] == [
        [0],
        [1, 0],
        [2],
        [3, 2, 0],
        [5, 4],
        [7, 6, 4, 0],
    ]


@pytest.mark.parametrize("name", NAMES)
def test_features_only_trains_every_weight(name: str) -> None:
    net = make(name, features_only=True, out_indices=(1, 2, 3, 4)).train()
    channels = [c for c, _, _ in GOLDEN[name].features.values()][1:]
    assert net.feature_info.channels() == channels
    assert net.feature_info.reduction() == [4, 8, 16, 32]

    levels = net(torch.randn(2, 3, 64, 64))
    assert [tuple(f.shape) for f in levels] == [
        (2, c, 64 // r, 64 // r) for c, r in zip(channels, (4, 8, 16, 32), strict=True)
    ]
    # The last level's loss reaches all layers: none of the classifier is left, nothing is detached.
    levels[-1].square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert all(p.grad.abs().sum() > 0 for p in net.parameters() if p.dim() > 1)


@torch.no_grad()
def test_features_only_prunes_and_keeps_names(small: Any, tmp_path: Path) -> None:
    x = probe(96).float()
    _, levels = small.forward_intermediates(x)
    for indices, depth in (((0,), 0), ((1, 2), 2), ((-1,), 4), ((0, 1, 2, 3, 4), 4)):
        net = make(SMALL, features_only=True, out_indices=indices)
        keys = list(net.state_dict())
        last = small.taps[depth]
        want = [k for k in small.state_dict() if int(k.split(".")[1]) <= last]
        assert keys == [f"model.{k}" for k in want]
        net.model.load_state_dict({k: small.state_dict()[k] for k in want})
        for got, i in zip(net(x), indices, strict=True):
            assert torch.equal(got, levels[i])
        save_file(net.state_dict(), tmp_path / "net.safetensors")  # refuses shared tensors
    early = small.forward_intermediates(x, [1], stop_early=True, intermediates_only=True)
    assert len(early) == 1
    assert torch.equal(early[0], levels[1])


@torch.no_grad()
@pytest.mark.parametrize("kind", ["plain", "nested", "safetensors"])
def test_local_file(kind: str, small: Any, weights: Path, tmp_path: Path) -> None:
    path = weights
    if kind == "nested":  # as a data-parallel training run saves it
        path = tmp_path / "run.pth"
        state = {f"module.{k}": v for k, v in small.state_dict().items()}
        torch.save({"epoch": 3, "state_dict": state}, path)
    elif kind == "safetensors":
        path = tmp_path / "weights.safetensors"
        save_file(small.state_dict(), path)
    given = {"pretrained": True, "pretrained_cfg_overlay": {"file": str(path)}}
    x = probe(64).float()

    assert torch.equal(make(SMALL, **given)(x), small(x))
    net = make(SMALL, features_only=True, out_indices=(1, 2, 3, 4), **given)
    _, levels = small.forward_intermediates(x)
    assert all(torch.equal(a, b) for a, b in zip(net(x), levels[1:], strict=True))


@torch.no_grad()
def test_local_file_adapts_to_channels_and_classes(small: Any, weights: Path) -> None:
    given = {"pretrained": True, "pretrained_cfg_overlay": {"file": str(weights)}}
    stem = small.get_submodule("base.0.conv").weight

    grey = make(SMALL, in_chans=1, num_classes=7, **given)
    assert torch.allclose(grey.get_submodule("base.0.conv").weight, stem.sum(1, keepdim=True))
    assert torch.equal(grey.base[1].conv.weight, small.base[1].conv.weight)
    assert grey(torch.randn(2, 1, 64, 64)).shape == (2, 7)

    net = make(SMALL, features_only=True, in_chans=5, **given)
    assert net(torch.randn(1, 5, 64, 64))[0].shape == (1, 48, 32, 32)
    assert torch.equal(net.model.base[1].conv.weight, small.base[1].conv.weight)


class Payload:
    """Unpickled carelessly, makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_bad_files(weights: Path, tmp_path: Path) -> None:
    def load(name: str, path: Path) -> None:
        overlay = {"file": str(path)}
        timm.create_model(name, pretrained=True, features_only=True, pretrained_cfg_overlay=overlay)

    with pytest.raises(CheckpointError, match="no such file"):
        load(SMALL, tmp_path / "none.pth")
    foreign = tmp_path / "foreign.pth"
    torch.save({"layer.weight": torch.zeros(3)}, foreign)
    with pytest.raises(CheckpointError, match="backbone tensors are missing"):
        load(SMALL, foreign)
    with pytest.raises(CheckpointError, match="not a weight file of this HarDNet variant"):
        load("hardnet68", weights)
    touched = tmp_path / "touched"
    torch.save({"state_dict": Payload(touched)}, foreign)
    with pytest.raises(RuntimeError, match="weights_only"):
        load(SMALL, foreign)
    assert not touched.exists()


@pytest.mark.parametrize("kwargs", [{}, {"features_only": True}])
def test_hardnet85_has_no_public_weights(kwargs: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError) as error:
        timm.create_model("hardnet85", pretrained=True, **kwargs)
    for part in (
        "no public file exists for hardnet85",
        "pretrained_cfg_overlay=dict(file='...')",
        "--model.backbone_weights FILE",
    ):
        assert part in str(error.value)


def test_default_cfgs() -> None:
    for name in NAMES:
        cfg: Any = timm.get_pretrained_cfg(name)
        assert cfg.url.rpartition("/")[2] == ("" if name == "hardnet85" else f"{name}.pth")
        assert timm.is_model_pretrained(name) is (name != "hardnet85")
        with torch.device("meta"):
            model = make(name)
        assert model.get_submodule(cfg.classifier) is model.get_classifier()
        data = resolve_data_config(model=model)
        assert data["mean"] == (0.485, 0.456, 0.406)
        assert data["std"] == (0.229, 0.224, 0.225)


@torch.no_grad()
def test_classifier_interface() -> None:
    model = make(SMALL, num_classes=5, drop_rate=0.4)
    x = torch.randn(2, 3, 64, 64)
    features = model.forward_features(x)
    assert features.shape == (2, model.num_features, 2, 2)
    assert torch.equal(model.forward_head(features), model(x))
    pooled = model.forward_head(features, pre_logits=True)
    assert pooled.shape == (2, model.head_hidden_size)
    assert torch.equal(model.get_classifier()(pooled), model(x))
    assert model.get_submodule("base.14.2").p == 0.4

    model.reset_classifier(9)
    assert model.num_classes == 9
    assert model(x).shape == (2, 9)
    model.reset_classifier(4, "catavgmax")
    assert model.head_hidden_size == 2048
    assert model(x).shape == (2, 4)
    model.reset_classifier(0, "")
    assert torch.equal(model(x), features)
    assert isinstance(model.get_classifier(), nn.Identity)
    with pytest.raises(ValueError, match="num_classes=0"):
        model.reset_classifier(3)
    assert make(SMALL, num_classes=0)(x).shape == (2, 1024)
    with pytest.raises(ValueError, match="NCHW"):
        model.forward_intermediates(x, output_fmt="NHWC")
