"""Volumes as slices, and masks back as volumes."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import miniature
import numpy as np
import pytest
import torch
from helpers import tiny_config
from monai.metrics import compute_dice
from PIL import Image

from autosam.config import DataConfig
from autosam.config.commands import EvaluateConfig, PredictConfig
from autosam.data.layouts import load_pairs, load_splits
from autosam.data.pairs import SPLITS, read_valid
from autosam.data.readers.volumes import Slice
from autosam.errors import DataError
from autosam.evaluate import evaluate
from autosam.inference.predictor import load
from autosam.predict import predict
from autosam.train import train


def test_volumes(tmp_path: Path) -> None:
    pytest.importorskip("nibabel")
    root = str(miniature.volumes(tmp_path))
    config = DataConfig(layout="volumes", root=root, window=(-400, 620))
    pairs = load_pairs(config)
    assert len(pairs) == 30
    image, mask = miniature.draw_image(102)
    pair = next(pair for pair in pairs if pair.name == "case1-2")
    assert np.array_equal(pair.image.read()[..., 0], image[..., 0])
    assert np.array_equal(pair.mask.read(), mask)
    splits = load_splits(config)
    for split in SPLITS:  # whole volumes, never slices
        assert len(splits[split]) % 5 == 0
    sagittal = load_pairs(DataConfig(layout="volumes", root=root, axis=0))
    assert len(sagittal) == 6 * 56
    assert sagittal[0].image.read().shape == (5, 40, 3)


def test_dicom_series(tmp_path: Path) -> None:
    pytest.importorskip("nibabel")
    pydicom = pytest.importorskip("pydicom")
    import nibabel
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    miniature.volumes(tmp_path, 1)
    stored = np.asarray(nibabel.load(tmp_path / "images/case0.nii").dataobj)
    (tmp_path / "images/case0.nii").unlink()
    folder = tmp_path / "images/case0"
    folder.mkdir()
    series = generate_uid()
    for k in range(5):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = (
            CTImageStorage, generate_uid(),
        )  # fmt: skip
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data = FileDataset(str(folder / f"{k}.dcm"), {}, file_meta=meta, preamble=b"\0" * 128)
        data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        data.SeriesInstanceUID, data.Modality, data.InstanceNumber = series, "CT", k + 1
        data.Rows, data.Columns = 40, 56
        data.PixelSpacing, data.SliceThickness = [0.7, 0.7], 3
        data.ImagePositionPatient = [0, 0, 3 * k]
        data.ImageOrientationPatient = [-1, 0, 0, 0, -1, 0]
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
        data.PixelRepresentation = 1
        data.RescaleSlope, data.RescaleIntercept = 1, 0
        data.PixelData = np.ascontiguousarray(stored[..., k].T).tobytes()
        pydicom.dcmwrite(folder / f"{k}.dcm", data, enforce_file_format=True)
    config = DataConfig(layout="volumes", root=str(tmp_path), window=(-400, 620))
    pairs = load_pairs(config)
    assert len(pairs) == 5
    for k, pair in enumerate(pairs):
        image, mask = miniature.draw_image(k)
        assert np.array_equal(pair.image.read()[..., 0], image[..., 0])
        assert np.array_equal(pair.mask.read(), mask)


def test_a_mask_written_back_as_a_volume(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    from autosam.data.readers.volumes import write_volume

    miniature.volumes(tmp_path, 1)
    label = np.random.default_rng(0).integers(0, 3, (56, 40, 5)).astype(np.uint8)
    write_volume(tmp_path / "out.nii.gz", label, tmp_path / "images/case0.nii")
    written = nibabel.load(tmp_path / "out.nii.gz")
    assert np.array_equal(np.asarray(written.dataobj), label)
    assert np.allclose(written.affine, np.diag([0.7, 0.7, 3.0, 1.0]))


def test_slices_of_a_volume_are_stretched_alike(tmp_path: Path) -> None:
    """An empty slice stays dark: it is not stretched over its own noise."""
    nibabel = pytest.importorskip("nibabel")
    values = np.full((40, 48, 8), -1000, np.int16)
    values[10:30, 10:30, 4:] = 500
    values[::2, :, 0] += 10
    nibabel.save(nibabel.Nifti1Image(values, np.diag([1.0, 1, 1, 1])), tmp_path / "a.nii")
    assert Slice(tmp_path / "a.nii", 2, 0).read().max() <= 2
    assert Slice(tmp_path / "a.nii", 2, 5).read().max() == 255


def test_voxels_without_data(tmp_path: Path, trained: Path) -> None:
    """NaN and `--data.nodata` are left out of the stretch, and are background in masks."""
    nibabel = pytest.importorskip("nibabel")
    rng = np.random.default_rng(0)
    values = rng.integers(100, 200, (56, 40, 4)).astype(np.float32)
    values[:20] = np.nan
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "nan.nii")
    filled = np.nan_to_num(values, nan=-9999).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(filled, np.eye(4)), tmp_path / "filled.nii")
    low, high = np.percentile(values[20::4, ::4, ::4], (0.1, 99.9))
    expected = ((values[20:, :, 1].T - low) / (high - low) * 255).clip(0, 255).round()
    for one in (Slice(tmp_path / "nan.nii", 2, 1), Slice(tmp_path / "filled.nii", 2, 1, False,
                                                          None, -9999)):  # fmt: skip
        image, valid = one.read_valid()
        assert valid is not None
        assert np.array_equal(valid, np.isfinite(values[:, :, 1].T))
        assert (image[~valid] == 0).all()
        assert np.array_equal(image[:, 20:, 0], expected)
    with pytest.raises(DataError, match=r"Set --data\.nodata -9999"):
        Slice(tmp_path / "filled.nii", 2, 1).read()
    predict(PredictConfig(str(trained), str(tmp_path / "nan.nii"), str(tmp_path / "out")))
    mask = np.asarray(nibabel.load(tmp_path / "out/nan.nii.gz").dataobj)
    assert not mask[:20].any()


def test_a_truncated_volume(tmp_path: Path) -> None:
    pytest.importorskip("nibabel")
    miniature.volumes(tmp_path, 2)
    path = tmp_path / "images/case1.nii.gz"
    path.write_bytes(path.read_bytes()[:-2000])
    pairs = load_pairs(DataConfig(layout="volumes", root=str(tmp_path)))
    with pytest.raises(DataError, match=r"case1\.nii\.gz: cannot be read"):
        next(pair for pair in pairs if pair.name == "case1-4").image.read()


def test_bad_volumes(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    miniature.volumes(tmp_path, 3)
    config = DataConfig(layout="volumes", root=str(tmp_path))
    (tmp_path / "images/case1.nii.gz").write_bytes(b"nonsense")
    with pytest.raises(DataError, match=r"case1\.nii\.gz: cannot be read as a volume"):
        load_pairs(config)
    lost = nibabel.Nifti1Image(np.zeros((56, 40, 5), np.int16), None)
    nibabel.save(lost, tmp_path / "images/case1.nii")
    (tmp_path / "images/case1.nii.gz").unlink()
    with pytest.raises(DataError, match=r"case1\.nii: holds no orientation"):
        load_pairs(config)
    other = nibabel.Nifti1Image(np.zeros((56, 40, 4), np.int16), np.diag([0.7, 0.7, 3, 1]))
    nibabel.save(other, tmp_path / "images/case1.nii")
    with pytest.raises(DataError, match=r"is \(56, 40, 4\) but its mask .* is \(56, 40, 5\)"):
        load_pairs(config)


def test_volumes_from_training_to_masks_as_volumes(
    tmp_path: Path, tiny_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nibabel = pytest.importorskip("nibabel")
    root = miniature.volumes(tmp_path / "data")
    result = train(
        tiny_config(
            tiny_file, "--data.layout=volumes", f"--data.root={root}", "--data.window=[-400,620]",
            "--train.epochs=1", f"--output={tmp_path / 'run'}",
        )
    )  # fmt: skip
    (tmp_path / "new").mkdir()
    for name in ("case0.nii", "case1.nii.gz"):
        shutil.copy(root / "images" / name, tmp_path / "new" / name)
    settings = PredictConfig(
        checkpoint=str(result.folder),
        input=str(tmp_path / "new"),
        output=str(tmp_path / "out"),
        sam_checkpoint=str(tiny_file),
    )
    files = predict(settings)
    assert [file.name for file in files] == ["case0.nii.gz", "case1.nii.gz"]
    for file, source in zip(files, sorted((tmp_path / "new").iterdir()), strict=True):
        mask, volume = nibabel.load(file), nibabel.load(source)
        assert mask.shape == volume.shape
        assert np.allclose(mask.affine, volume.affine)
        assert set(np.unique(np.asarray(mask.dataobj))) <= {0, 255}
    # A slice of the volume is the prediction of that slice.
    predictor = load(str(result.folder), str(tiny_file))
    expected = predictor(Slice(root / "images/case0.nii", 2, 3, window=(-400, 620))).masks[0]
    assert np.array_equal(np.asarray(nibabel.load(files[0]).dataobj)[..., 3].T > 0, expected)
    (tmp_path / "new/case1.nii.gz").write_bytes(b"nonsense")
    settings.overwrite = True
    with pytest.raises(DataError, match=r"1 of 2 were skipped"):
        predict(settings)
    # Test volumes are scored whole: against MONAI on the volumes that were predicted.
    with open(result.folder / "test_volumes.csv") as file:
        rows = {row["volume"]: row for row in csv.DictReader(file)}
    assert rows
    settings.input, settings.output = str(root / "images"), str(tmp_path / "all")
    predict(settings)
    means = []
    for name, row in rows.items():
        stacked = [
            torch.from_numpy(np.asarray(nibabel.load(folder / f"{name}.nii.gz").dataobj) > 0)
            for folder in (tmp_path / "all", root / "masks")
        ]
        a, b = (one[None, None].float() for one in stacked)
        means.append(compute_dice(a, b, ignore_empty=False).item())
        assert float(row["dice"]) == pytest.approx(means[-1], abs=1e-5)
    assert result.test["volume_dice"] == pytest.approx(np.mean(means))
    assert f"whole volumes: {len(rows)}, Dice {np.mean(means):.4f}, IoU " in capsys.readouterr().out
    again = evaluate(
        EvaluateConfig(
            checkpoint=str(result.folder),
            sam_checkpoint=str(tiny_file),
            output=str(tmp_path / "x.csv"),
        )
    )
    assert again["volume_dice"] == pytest.approx(result.test["volume_dice"], abs=1e-6)
    own = (tmp_path / "x_volumes.csv").read_text()
    assert own == (result.folder / "test_volumes.csv").read_text()


def test_neighbouring_slices_are_channels(tmp_path: Path) -> None:
    """As nibabel reads them; the first and the last slice are repeated."""
    nibabel = pytest.importorskip("nibabel")
    root = miniature.volumes(tmp_path)
    settings = {"layout": "volumes", "root": str(root), "window": (-400, 620)}
    pairs = {pair.name: pair.image for pair in load_pairs(DataConfig(**settings, slices=5))}
    values = np.asarray(nibabel.load(root / "images/case1.nii.gz").dataobj).astype(np.float64)
    greys = ((values + 400) / 1020 * 255).clip(0, 255).round()
    for index, places in ((0, (0, 0, 0, 1, 2)), (2, (0, 1, 2, 3, 4)), (4, (2, 3, 4, 4, 4))):
        image = pairs[f"case1-{index}"]
        found, _ = read_valid(image)
        assert found.shape == (40, 56, 8)
        for channel, place in enumerate(places):
            assert np.array_equal(found[..., 3 + channel], greys[..., place].T)
        assert np.array_equal(image.read(), np.repeat(greys[..., index].T[..., None], 3, 2))
    alone = load_pairs(DataConfig(**settings))[7].image
    assert alone.digest() == pairs["case1-2"].digest()  # the embedding is SAM's alone


def test_a_run_on_neighbouring_slices(tmp_path: Path, tiny_file: Path) -> None:
    """Masks of a predicted volume have the Dice of training; an image without neighbours is
    refused."""
    nibabel = pytest.importorskip("nibabel")
    root = miniature.volumes(tmp_path / "data")
    flags = ("--data.layout=volumes", f"--data.root={root}", "--data.window=[-400,620]")
    more = ("--data.slices=3", "--train.epochs=2", f"--output={tmp_path / 'run'}")
    run = train(tiny_config(tiny_file, *flags, *more)).folder
    rows = list(csv.DictReader((run / "test_scores.csv").open()))
    volume = rows[0]["image"].rpartition("-")[0]
    file = next((root / "images").glob(f"{volume}.*"))
    predict(PredictConfig(checkpoint=str(run), input=str(file), output=str(tmp_path / "masks")))
    found = np.asarray(nibabel.load(next((tmp_path / "masks").glob("*.nii*"))).dataobj) > 0
    truth = np.asarray(nibabel.load(root / f"masks/{volume}.nii.gz").dataobj) > 0
    for row in rows:
        name, _, index = row["image"].rpartition("-")
        if name == volume:
            one, other = found[..., int(index)], truth[..., int(index)]
            dice = 2 * (one & other).sum() / max(1, one.sum() + other.sum())
            assert float(row["dice"]) == pytest.approx(dice, abs=1e-5)
    Image.fromarray(np.zeros((40, 56), np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="3 slices at a time"):
        load(run)(tmp_path / "a.png")
