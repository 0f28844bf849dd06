"""Masks have the geometry of their volumes, as read by SimpleITK."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from dicom_files import UPRIGHT, enhanced, make, save, series

from autosam.config import DataConfig
from autosam.config.commands import PredictConfig
from autosam.data.layouts import load_pairs
from autosam.data.readers.volumes import Slice, write_volume
from autosam.errors import DataError
from autosam.predict import predict

RAS = np.diag([0.7, 0.9, 2.5, 1.0])
LAS = np.diag([-0.7, 0.9, 2.5, 1.0])
OBLIQUE = np.eye(4)
OBLIQUE[:3] = [[0.0, 0.8 * 0.9, -0.6 * 2.5, 12], [0.7, 0, 0, -3.5], [0, -0.6 * 0.9, -0.8 * 2.5, 40]]


def nifti(path: Path, affine: np.ndarray, **settings: Any) -> Path:
    """A volume of 12 x 10 x 4 with both transforms."""
    values = np.random.default_rng(0).integers(0, 900, (12, 10, 4)).astype(np.int16)
    shape = settings.get("shape", values.shape)
    image = nibabel.Nifti1Image(values.reshape(shape), affine)
    image.set_qform(settings.get("qform", affine), settings.get("qcode", 1))
    image.set_sform(affine, settings.get("scode", 1))
    image.header.set_slope_inter(*settings.get("scale", (1, 0)))
    image.header.set_xyzt_units("mm", "sec")
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)
    return path


def assert_same_place(mask: sitk.Image, source: sitk.Image) -> None:
    assert mask.GetSize() == source.GetSize()
    for name in ("GetSpacing", "GetOrigin", "GetDirection"):
        assert np.allclose(getattr(mask, name)(), getattr(source, name)(), atol=1e-4), name
    last = [size - 1 for size in source.GetSize()]
    places = [image.TransformIndexToPhysicalPoint(last) for image in (mask, source)]
    assert np.allclose(*places, atol=1e-3)


@pytest.mark.parametrize("settings", [
    {}, {"scode": 0}, {"qcode": 0}, {"scode": 2, "qform": LAS}, {"scale": (0.5, -3)},
    {"scale": (float("nan"), float("nan"))}, {"shape": (12, 10, 4, 1)},
])  # fmt: skip
@pytest.mark.parametrize("affine", [RAS, LAS, OBLIQUE])
def test_a_label_of_a_nifti(tmp_path: Path, affine: np.ndarray, settings: dict[str, Any]) -> None:
    source = nifti(tmp_path / "v.nii.gz", affine, **settings)
    label = np.random.default_rng(1).integers(0, 300, (12, 10, 4)).astype(np.uint16)
    write_volume(tmp_path / "mask.nii.gz", label, source)
    mask = sitk.ReadImage(str(tmp_path / "mask.nii.gz"))
    assert_same_place(mask, sitk.ReadImage(str(source)))
    values = sitk.GetArrayFromImage(mask)  # the last axis first
    assert np.array_equal(values.reshape(4, 10, 12), label.transpose(2, 1, 0))


def test_masks_of_predict(trained: Path, tmp_path: Path) -> None:
    values = (np.random.default_rng(0).integers(0, 900, (4, 40, 56))).astype(np.int16)
    turned = (0.8, 0.6, 0.0, 0.0, 0.0, -1.0)
    series(tmp_path / "in/ct", values)
    series(tmp_path / "in/turned", values, orientation=turned)
    save(enhanced(values, [[0, 0, 2.0 * k] for k in range(4)], [1.0] * 4), tmp_path / "in/e.dcm")
    place = {"ImagePositionPatient": [3, 4, 5], "ImageOrientationPatient": list(UPRIGHT)}
    place |= {"PixelSpacing": [0.7, 0.9], "SpacingBetweenSlices": 4}
    save(make(values[0], **place), tmp_path / "in/one/slice.dcm")
    nifti(tmp_path / "in/n.nii", OBLIQUE)
    (tmp_path / "in/._n.nii").write_bytes(b"\0" * 90)
    out = tmp_path / "out"
    written = predict(PredictConfig(str(trained), str(tmp_path / "in"), str(out)))
    names = ("ct", "e", "n", "one", "turned")
    assert sorted(written) == [out / f"{name}.nii.gz" for name in names]
    for name in names:
        mask, folder = sitk.ReadImage(str(out / f"{name}.nii.gz")), tmp_path / "in" / name
        reader = sitk.ImageSeriesReader()
        if folder.is_dir() and name != "one":
            reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
            source = reader.Execute()
        elif folder.is_dir():
            source = sitk.ReadImage(str(folder / "slice.dcm"))
        else:
            source = sitk.ReadImage(str(next(folder.parent.glob(f"{name}.*"))))
        assert_same_place(mask, source)
    from autosam import load

    predictor = load(trained)
    mask = sitk.GetArrayFromImage(sitk.ReadImage(str(out / "turned.nii.gz")))
    for k in range(4):  # the slice at that place, not the one of that file name
        expected = predictor(Slice(tmp_path / "in/turned", 2, k)).masks[0]
        assert np.array_equal(mask[k] > 0, expected)


def test_one_dicom_file_is_an_image(trained: Path, tmp_path: Path) -> None:
    from PIL import Image

    values = np.random.default_rng(0).integers(0, 255, (40, 56)).astype(np.uint8)
    path = save(make(values, PhotometricInterpretation="MONOCHROME1"), tmp_path / "x.dcm")
    (mask,) = predict(PredictConfig(str(trained), str(path), str(tmp_path / "out"), overlay=True))
    from autosam import load

    expected = load(trained)(255 - values).masks[0]
    assert np.array_equal(np.asarray(Image.open(mask)) > 0, expected)
    assert mask.name == "x.png"
    assert np.array_equal(load(trained)(path).masks[0], expected)


def test_volumes_that_lie_otherwise(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Mirrored ones are said; others, whose third axis is another one of the body, are refused."""
    root = tmp_path / "data"
    for i, affine in enumerate([RAS, RAS, LAS]):
        for folder in ("images", "masks"):
            path = nifti(root / folder / f"{i}.nii", affine)
            if folder == "masks":
                write_volume(path, np.zeros((12, 10, 4), np.uint8), root / f"images/{i}.nii")
    config = DataConfig(layout="volumes", root=str(root))
    with caplog.at_level(logging.WARNING, "autosam"):
        assert len(load_pairs(config)) == 12
    assert "2 RAS (0 ..), 1 LAS (2 ..)" in caplog.text
    sagittal = np.array([[0, 0, 2.5, 0], [0.7, 0, 0, 0], [0, 0.9, 0, 0], [0, 0, 0, 1]])
    for folder in ("images", "masks"):
        nifti(root / folder / "2.nii", sagittal)
    with pytest.raises(DataError, match=r"2 RAS \(0 \.\.\), 1 ASR \(2 \.\.\).*--data\.axis 2"):
        load_pairs(config)
