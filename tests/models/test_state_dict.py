"""Weights files: read, refused and identified."""

from __future__ import annotations

import dataclasses
import pickle
import zipfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from helpers import TINY, build_tiny
from safetensors.torch import save_file
from torch import Tensor, nn

import autosam.models.backbones.hardnet  # noqa: F401  (timm knows it then)
from autosam.errors import CheckpointError
from autosam.models.sam import SAMS, load_sam
from autosam.models.sam.weights.identify import guess, skeleton
from autosam.models.state_dict import load_strict, read_weights, without_prefix

VIT_B = "vit_b or medsam or vit_b_lm or vit_b_em_organelles"
STATE = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2)}


def same(state: dict[str, Tensor]) -> bool:
    return state.keys() == STATE.keys() and all(torch.equal(state[k], STATE[k]) for k in STATE)


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors", "x.bin", "x"])
def test_the_content_decides_and_not_the_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    save_file(STATE, path)
    assert same(read_weights(path))
    for zipped in (True, False):
        torch.save(STATE, path, _use_new_zipfile_serialization=zipped)
        assert same(read_weights(path))


@pytest.mark.parametrize("key", ["model", "state_dict", "model_state_dict"])
def test_a_nested_state_dict_is_unwrapped(tmp_path: Path, key: str) -> None:
    torch.save({"epoch": 3, key: STATE}, tmp_path / "x.pth")
    assert same(read_weights(tmp_path / "x.pth"))


def test_a_prefix_goes_only_where_every_key_has_it() -> None:
    wrapped = {f"module.model.{key}": value for key, value in STATE.items()}
    assert same(without_prefix(wrapped))
    assert same(without_prefix({f"sam.{key}": value for key, value in STATE.items()}))
    half = {"module.a": STATE["a.bias"], "b": STATE["a.bias"]}
    assert without_prefix(half) == half
    assert without_prefix({}) == {}


class Trap:
    """Pickles into a call of os.mkdir."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        import os

        return os.mkdir, (str(self.path),)


def test_code_in_a_pickle_is_named_and_never_run(tmp_path: Path) -> None:
    path, owned = tmp_path / "x.pth", tmp_path / "owned"
    for zipped in (True, False):
        torch.save({"model": Trap(owned)}, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(CheckpointError, match=r"object \(posix.mkdir\), which could run code"):
            read_weights(path)
    for protocol in (2, 4):
        path.write_bytes(pickle.dumps({"model": Trap(owned)}, protocol))
        with pytest.raises(CheckpointError, match=r"never loaded.*weights_only=False"):
            read_weights(path)
    assert not owned.exists()


def test_objects_and_programs_say_how_to_convert_them(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save(nn.Linear(2, 2), path)
    with pytest.raises(
        CheckpointError, match=r"\(torch.nn.modules.linear.Linear\).*state_dict\(\)"
    ):
        read_weights(path)
    torch.save({"model": STATE, "best": np.float64(0.5), "args": SimpleNamespace(a=1)}, path)
    with pytest.raises(CheckpointError, match=r"a pickled object \((numpy|types)\."):
        read_weights(path)
    # The layout of TorchScript; torch.jit.save itself is deprecated.
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py"):
            archive.writestr(f"x/{name}", b"")
    with pytest.raises(CheckpointError, match=r"TorchScript program.*torch\.jit\.load"):
        read_weights(path)


def test_the_weights_of_a_training_checkpoint_are_read_without_its_objects(tmp_path: Path) -> None:
    path, owned = tmp_path / "best.pt", tmp_path / "owned"
    rest = {
        "init": {"train_dataset": Trap(owned), "model": nn.Linear(2, 2), "classes": {1, 2}},
        "best_metric": np.float64(0.5),
        "counts": Counter(a=1),
        "optimizer_state": {"state": {0: {"step": torch.tensor(1.0)}}},
    }
    torch.save(rest | {"model_state": STATE}, path)
    found = read_weights(path)
    assert found.keys() == STATE.keys()
    assert all(torch.equal(found[key], STATE[key]) for key in STATE)
    for other in ({}, {"model_state": STATE | {"x": Trap(owned)}}, {"model_state": Trap(owned)}):
        torch.save(rest | other, path)
        with pytest.raises(CheckpointError, match=r"object \(posix.mkdir\), which could run code"):
            read_weights(path)
    assert not owned.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"\n<!DOCTYPE HTML>\n<title>Sign in</title>", "HTML page: the download failed"),
        (b"\xef\xbb\xbf<?xml version='1.0'?><Error>AccessDenied</Error>", "HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab", "a git-LFS pointer"),
        (b"Quota exceeded", "it is text \\('Quota exceeded'\\)"),
        (b'{"error": {"code": 3}}', "it is text"),
        (b"\x80\x04garbage", "a pickle that is damaged or no state dict"),
        (b"\x00\x01\x02\x03", r"it begins with b.\\x00\\x01\\x02\\x03., as no such file does"),
        (b"\xff\x00\x00\x00\x00\x00\x00\x00{", "it is truncated: download it again"),
    ],
)
def test_what_else_a_file_may_be(tmp_path: Path, content: bytes, message: str) -> None:
    for name in ("x.pth", "x.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=f"not a readable weights file: .*{message}"):
            read_weights(tmp_path / name)


def test_truncated_files(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save(STATE, path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    with pytest.raises(CheckpointError, match=r"truncated \(a zip archive without its end"):
        read_weights(path)
    save_file(STATE, path)
    whole = path.read_bytes()
    for length in (len(whole) - 1, 20):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="truncated"):
            read_weights(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("sam_vit_b.pth", b"...")
    with pytest.raises(CheckpointError, match="zip archive of something else: unpack it"):
        read_weights(path)


def test_other_contents(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    for content, message in (
        ([torch.zeros(1)], "holds list, expected a dict"),
        ({"epoch": 3, "net": STATE}, "other things than tensors under epoch, net; .*model_state"),
        ({}, "holds nothing"),
    ):
        torch.save(content, path)
        with pytest.raises(CheckpointError, match=message):
            read_weights(path)


def test_the_hint_is_made_for_a_misfit_alone() -> None:
    net, asked = nn.Linear(3, 2), []

    def hint() -> str:
        asked.append(1)
        return "Try another."

    load_strict(net, {"weight": torch.zeros(2, 3), "bias": torch.ones(2)}, "x.pth", hint)
    assert net.bias.tolist() == [1, 1]
    assert not asked
    with pytest.raises(CheckpointError) as error:
        load_strict(net, {"weight": torch.zeros(3, 2), "b": torch.zeros(2)}, "x.pth", hint)
    assert str(error.value).splitlines() == [
        "x.pth: does not fit Linear.",
        "  1 missing: bias",
        "  1 unexpected: b",
        "  1 of another shape: weight (3, 2) instead of (2, 3)",
        "Try another.",
    ]


def fake(**shapes: tuple[int, ...]) -> dict[str, Tensor]:
    """Tensors that take no memory; `__` stands for a dot."""
    return {key.replace("__", "."): torch.zeros(()).expand(shapes[key]) for key in shapes}


def fakes_of(name: str) -> dict[str, Tensor]:
    """A state with the keys and shapes of a registered SAM's network."""
    return {k: torch.zeros(()).expand(v.shape) for k, v in skeleton(SAMS[name]).items()}


def hiera(trunk: str, projection: str, width: int, blocks: int) -> dict[str, Tensor]:
    state = {f"{trunk}.patch_embed.{projection}.weight": torch.zeros(()).expand(width, 3, 7, 7)}
    return state | {f"{trunk}.blocks.{i}.mlp.bias": torch.zeros(1) for i in range(blocks)}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vit_b", f"This looks like SAM ViT-B: use --sam {VIT_B}."),
        ("vit_l", "This looks like SAM ViT-L: use --sam vit_l or vit_l_lm or vit_l_em_organelles."),
        ("vit_h", "This looks like SAM ViT-H: use --sam vit_h."),
        ("lite", "This looks like autosam's own SAM lite: use --sam lite."),
    ],
)
def test_guesses_of_whole_files(name: str, expected: str) -> None:
    state = fakes_of(name)
    assert guess(state) == expected
    assert guess({f"module.{key}": value for key, value in state.items()}) == expected


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (fake(vision_encoder__patch_embed__projection__weight=(768, 3, 16, 16)),
         "Hugging Face's SAM ViT-B (sam-vit-base)"),
        (fake(vision_encoder__patch_embed__projection__weight=(1024, 3, 16, 16)),
         "Hugging Face's SAM ViT-L (sam-vit-large)"),
        (fake(vision_encoder__patch_embed__projection__weight=(1280, 3, 16, 16)),
         "Hugging Face's SAM ViT-H (sam-vit-huge)"),
        (fake(image_encoder__patch_embed__seq__0__c__weight=(32, 3, 3, 3)),
         "MobileSAM TinyViT (mobile_sam or vit_t_lm or vit_t_em_organelles)"),
        (hiera("image_encoder.trunk", "proj", 96, 12), "SAM 2 tiny (sam2.1-tiny)"),
        (hiera("image_encoder.trunk", "proj", 96, 16), "SAM 2 small (sam2.1-small)"),
        (hiera("image_encoder.trunk", "proj", 112, 24) | fake(no_obj_embed_spatial=(1, 64)),
         "SAM 2.1 base-plus (sam2.1-base-plus)"),
        (hiera("vision_encoder.backbone", "projection", 144, 48)
         | fake(occlusion_spatial_embedding_parameter=(1, 64)),
         "Hugging Face's SAM 2.1 large (sam2.1-large)"),
        (hiera("vision_encoder.backbone", "projection", 100, 3),
         "Hugging Face's SAM 2 with another image encoder than"),
        (build_tiny(TINY).state_dict(), "SAM with another image encoder than"),
        (fake(generator__dense__weight=(1,), sam__mask_decoder__x=(1,)), "a checkpoint of autosam"),
        (fake(sam__mask_decoder__iou_token__weight=(1, 8)), "a checkpoint of autosam itself"),
        (fake(head__net__weight=(1,)), "a checkpoint of autosam itself: give it as --checkpoint"),
    ],
)  # fmt: skip
def test_guesses_by_a_few_keys(state: dict[str, Tensor], expected: str) -> None:
    assert f"This looks like {expected}" in guess(state)


@pytest.mark.parametrize(
    "name", ["resnet18", "hardnet39ds", "test_vit", "test_convnext", "test_efficientnet"]
)
def test_guesses_of_backbones(name: str) -> None:
    with torch.device("meta"):
        state = timm.create_model(name).state_dict()
    assert "This looks like an image backbone of timm or torchvision" in guess(state)


def test_guess_of_a_foreign_file() -> None:
    assert guess(fake(foo__a=(1,), bar__b=(1,))) == (
        "Its tensors (under bar, foo) are those of no known SAM."
    )


def test_guess_of_a_fine_tuned_sam() -> None:
    state = fakes_of("vit_b") | fake(image_encoder__blocks__0__lora_a=(4, 768))
    del state["mask_decoder.iou_token.weight"]
    text = guess(state)
    assert f"SAM ViT-B ({VIT_B}) that was changed" in text
    assert "(1 tensors missing, 1 tensors unexpected)" in text


def test_a_foreign_file_is_named_where_it_is_given(tmp_path: Path) -> None:
    """Also where a SAM's own renaming of tensors stumbles over it."""
    state = {k: v.clone() for k, v in build_tiny(TINY).state_dict().items()}
    torch.save({f"sam.{key}": value for key, value in state.items()}, tmp_path / "wrapped.pth")
    assert torch.equal(
        load_sam("tiny", tmp_path / "wrapped.pth").mask_decoder.iou_token.weight,
        state["mask_decoder.iou_token.weight"],
    )
    torch.save(timm.create_model("test_vit").state_dict(), tmp_path / "vit.pth")
    for name in ("tiny", "lite", "mobile_sam"):
        with pytest.raises(CheckpointError, match=r"(?s)vit\.pth.*an image backbone of timm"):
            load_sam(name, tmp_path / "vit.pth")


def test_a_renaming_that_fails_is_a_clear_error(tmp_path: Path, monkeypatch) -> None:
    def convert(state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"x": state["vision_encoder.x"]}

    monkeypatch.setitem(SAMS, "tiny", dataclasses.replace(TINY, convert=convert))
    torch.save(timm.create_model("test_vit").state_dict(), tmp_path / "vit.pth")
    with pytest.raises(CheckpointError) as error:
        load_sam("tiny", tmp_path / "vit.pth")
    text = str(error.value)
    assert "vit.pth: not a file of SAM tiny (KeyError('vision_encoder.x'))" in text
    assert "This looks like an image backbone" in text
