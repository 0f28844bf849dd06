"""DICOM against SimpleITK (GDCM), which the package does not use: order, position, values."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import PIL.Image
import pytest
import SimpleITK as sitk
from dicom_files import UPRIGHT, cine, enhanced, make, save, save_bare, series
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders import JPEGLosslessSV1Decoder
from pydicom.uid import (
    MPEG4HP41,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
    VLWholeSlideMicroscopyImageStorage,
    generate_uid,
)

from autosam.data.readers.dicom import DicomImage, read_header, read_values
from autosam.data.readers.volumes import Slice, affine_of, read_slice, shape_of
from autosam.errors import DataError
from autosam.inference.sources import find_sources, frames_of, rate_of

PLACED = {"ImageOrientationPatient": list(UPRIGHT), "PixelSpacing": [0.7, 0.9]}
TURNED = (0.8, 0.6, 0.0, 0.0, 0.0, -1.0)
"""Coronal, turned by 37 degrees: what lies along the normal is no axis of the patient."""


def volume(depth: int = 6, dtype: Any = np.int16) -> np.ndarray:
    """slices x H x W, no two slices alike."""
    rng = np.random.default_rng(5)
    return (rng.integers(0, 900, (depth, 8, 10)) + 1000 * np.arange(depth)[:, None, None]).astype(
        dtype
    )


def by_simpleitk(folder: Path) -> sitk.Image:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return reader.Execute()


def affine_of_image(image: sitk.Image) -> np.ndarray:
    """In NIfTI's frame."""
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return np.diag([-1, -1, 1, 1]) @ affine


def values_of(path: Path) -> np.ndarray:
    """slices x H x W as the package reads them."""
    return np.stack([read_slice(path, 2, k)[0] for k in range(shape_of(path)[2])])


@pytest.mark.parametrize("orientation", [UPRIGHT, TURNED, (-1.0, 0, 0, 0, -1.0, 0)])
@pytest.mark.parametrize("tags", [
    {},
    {"InstanceNumber": None},
    {"InstanceNumber": (3, None, 1, 1, None, 2)},
    {"RescaleSlope": 2, "RescaleIntercept": -1024},
    {"RescaleSlope": (0.5, 1.25, 1, 2, 0.1, 3), "RescaleIntercept": (0, 1, 2, 3.5, 4, -5)},
    {"syntax": ImplicitVRLittleEndian},
    {"syntax": ExplicitVRBigEndian},
    {"BitsStored": 13, "HighBit": 12},
])  # fmt: skip
def test_a_series_is_what_simpleitk_reads(
    tmp_path: Path, orientation: tuple[float, ...], tags: dict[str, Any]
) -> None:
    stored = volume() % 4000
    folder = series(tmp_path / "s", stored, orientation=orientation, **tags)
    slope, offset = tags.get("RescaleSlope", 1), tags.get("RescaleIntercept", 0)
    expected = by_simpleitk(folder)
    pixels = stored * np.reshape(slope, (-1, 1, 1)) + np.reshape(offset, (-1, 1, 1))
    if isinstance(slope, tuple):  # ImageSeriesReader casts all slices to the type of the first
        for path in folder.iterdir():
            one = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))[0]
            assert any(np.allclose(one, other) for other in pixels)
    else:
        assert np.array_equal(sitk.GetArrayFromImage(expected), pixels)
    assert np.allclose(values_of(folder), pixels)
    assert np.allclose(affine_of(folder), affine_of_image(expected), atol=1e-4)
    across = np.stack([read_slice(folder, 0, i)[0] for i in range(10)], 2)
    assert np.allclose(across, pixels)


def test_names_and_preambles_do_not_matter(tmp_path: Path) -> None:
    """No ending, an ending that is the end of a UID, no preamble; other files in between."""
    folder = series(tmp_path / "s", volume())
    for i, path in enumerate(sorted(folder.iterdir())):
        names = (path.with_name(f"IM{i:04d}"), path.with_name(f"1.2.84.{i}"))
        path.rename(names[i % 2])
    (folder / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    (folder / "._IM0000").write_bytes(b"\0" * 128 + b"DICM")
    (folder / "notes").write_text("no DICOM")
    report = make(volume(1)[0])
    for name in ("Rows", "Columns", "PixelData"):
        delattr(report, name)
    save(report, folder / "report")  # says something, holds no image
    assert np.array_equal(values_of(folder), volume())
    (source,) = find_sources(str(folder), False, tmp_path / "out")
    assert (source.kind, source.name) == ("volume", "s")
    bare = save_bare(make(volume(1)[0], **PLACED, ImagePositionPatient=[0, 0, 0]), folder / "b.dcm")
    assert np.array_equal(values_of(bare)[0], volume(1)[0])


SCOUT = {"ImageOrientationPatient": [1, 0, 0, 0, 0, -1], "ImagePositionPatient": [0, 0, 50]}


@pytest.mark.parametrize(("tags", "message"), [
    ({**SCOUT, "PixelSpacing": [0.7, 0.9], "SeriesInstanceUID": generate_uid(),
      "SeriesDescription": "SCOUT"}, r"holds 2 series: .*SCOUT \(1 files, extra\.dcm"),
    ({**SCOUT, "PixelSpacing": [0.7, 0.9]}, r"extra\.dcm has another orientation"),
    ({**PLACED, "PixelSpacing": [1, 1], "ImagePositionPatient": [-12.5, 20, 22]},
     r"extra\.dcm has another orientation or pixel spacing"),
    ({**PLACED, "ImagePositionPatient": [-12.5, 20, 12]}, r"extra\.dcm lie at one position"),
    ({**PLACED, "ImagePositionPatient": [-12.5, 20, 24.5]},
     r"5\.00 mm between \d\.dcm and extra\.dcm, 2\.50 mm elsewhere: slices are missing"),
    ({**PLACED, "ImagePositionPatient": [-12.5, 20, 13.1]}, r"mm elsewhere: slices are missing"),
    ({**PLACED, "ImagePositionPatient": [-12.5, 21.5, 22]}, r"shifted by up to 1\.50 mm.*tilt"),
    ({**PLACED}, r"extra\.dcm has no position \(ImagePositionPatient"),
    ({**PLACED, "ImagePositionPatient": [-12.5, 20, 22], "PhotometricInterpretation":
      "MONOCHROME1"}, r"MONOCHROME1, but \d\.dcm|of the same series"),
])  # fmt: skip
def test_what_is_no_volume_is_refused(tmp_path: Path, tags: dict[str, Any], message: str) -> None:
    folder = series(tmp_path / "s", volume())
    save(make(volume(1)[0], **tags), folder / "extra.dcm")
    with pytest.raises(DataError, match=message):
        shape_of(folder)


def test_a_gantry_tilt_and_a_lost_slice(tmp_path: Path) -> None:
    places = tuple([0.0, 0.4 * k, 3.0 * k] for k in range(6))
    folder = series(tmp_path / "tilted", volume(), ImagePositionPatient=places)
    with pytest.raises(DataError, match="gantry tilt"):
        affine_of(folder)
    folder = series(tmp_path / "lost", volume())
    next(p for p in folder.iterdir() if np.array_equal(DicomImage(p, (0, 9000)).read()[..., 0],
         Slice(folder, 2, 3, window=(0, 9000)).read()[..., 0])).unlink()  # fmt: skip
    with pytest.raises(DataError, match=r"5\.00 mm between .* 2\.50 mm elsewhere"):
        affine_of(folder)
    places = tuple([-12.5, 20, z] for z in (0, 2.5, 5.01, 7.5, 9.99, 12.5))  # rounded, not lost
    assert shape_of(series(tmp_path / "even", volume(), ImagePositionPatient=places)) == (10, 8, 6)


def test_many_frames_in_one_file(tmp_path: Path) -> None:
    """Ordered and scaled frame by frame; without places they are frames, not slices."""
    order = [4, 1, 0, 3, 5, 2]
    positions = [[0, 0, 2.0 * k] for k in order]
    slopes = [1.0 + k for k in order]
    path = save(enhanced(volume()[order], positions, slopes), tmp_path / "e.dcm")
    assert np.allclose(values_of(path), volume() * np.arange(1.0, 7)[:, None, None] - 100)
    assert np.allclose(affine_of(path), np.diag([-0.9, -0.7, 2, 1]))
    (source,) = find_sources(str(path), False, tmp_path / "out")
    assert (source.kind, source.name) == ("volume", "e")
    straight = save(enhanced(volume(), [[0, 0, 2.0 * k] for k in range(6)], [1.0] * 6),
                    tmp_path / "straight.dcm")  # fmt: skip
    expected = sitk.ReadImage(str(straight))
    assert np.allclose(values_of(straight), sitk.GetArrayFromImage(expected))
    assert np.allclose(affine_of(straight), affine_of_image(expected))
    positions[3] = positions[2]
    twice = save(enhanced(volume(), positions, slopes), tmp_path / "twice.dcm")
    with pytest.raises(DataError, match="frame 3 and frame 4 lie at one position"):
        shape_of(twice)
    bare = save(make(volume(), **PLACED, ImagePositionPatient=[0, 0, 0]), tmp_path / "bare.dcm")
    with pytest.raises(DataError, match="frame 1 has no position"):
        shape_of(bare)
    assert find_sources(str(bare), False, tmp_path / "out")[0].kind == "video"
    frames = list(frames_of(bare, (0, 6000)))
    assert [frame.shape for frame in frames] == [(8, 10, 3)] * 6
    assert np.array_equal(frames[4][..., 1], (volume()[4] / 6000 * 255).round())


def test_ultrasound_is_time_and_in_colour(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (3, 8, 10, 3), np.uint8)
    rgb = save(cine(colours), tmp_path / "rgb.dcm")
    assert find_sources(str(rgb), False, tmp_path / "out")[0].kind == "video"
    assert np.array_equal(np.stack(list(frames_of(rgb))), colours)
    assert rate_of(rgb) == 20
    with pytest.raises(DataError, match="RGB pixels; a volume is grey"):
        shape_of(rgb)
    planes = np.ascontiguousarray(colours[0].transpose(2, 0, 1))
    one = make(colours[0], PlanarConfiguration=1)
    one.PixelData = planes.tobytes()
    one = save(one, tmp_path / "planes.dcm")
    assert np.array_equal(DicomImage(one).read(), colours[0])
    other = save(make(colours[0], PhotometricInterpretation="YBR_FULL"), tmp_path / "ybr.dcm")
    expected = sitk.GetArrayFromImage(sitk.ReadImage(str(other)))[0]
    assert np.abs(DicomImage(other).read().astype(int) - expected).max() <= 1
    with pytest.raises(DataError, match=r"--data\.window is for grey"):
        DicomImage(one, (0, 10)).read()


def test_a_palette(tmp_path: Path) -> None:
    numbers = np.arange(80, dtype=np.uint8).reshape(8, 10)
    data = make(numbers, PhotometricInterpretation="PALETTE COLOR")
    lut = np.random.default_rng(1).integers(0, 2**16, (3, 256), np.uint16)
    for name, values in zip(("Red", "Green", "Blue"), lut, strict=True):
        setattr(data, f"{name}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(data, f"{name}PaletteColorLookupTableData", values.astype("<u2").tobytes())
    path = save(data, tmp_path / "p.dcm")
    assert np.array_equal(DicomImage(path).read(), lut[:, numbers].transpose(1, 2, 0) >> 8)


def test_grey_that_is_white_at_zero_padding_and_spare_bits(tmp_path: Path) -> None:
    values = np.arange(80, dtype=np.uint8).reshape(8, 10)
    mono1 = save(make(values, PhotometricInterpretation="MONOCHROME1"), tmp_path / "m1.dcm")
    assert np.array_equal(DicomImage(mono1).read()[..., 0], 255 - values)
    assert np.array_equal(
        DicomImage(save(make(values), tmp_path / "m2.dcm")).read()[..., 2], values
    )
    stack = series(tmp_path / "m1", volume(), PhotometricInterpretation="MONOCHROME1")
    plain = series(tmp_path / "m2", volume())
    for k in range(6):
        assert np.array_equal(Slice(stack, 2, k).read(), 255 - Slice(plain, 2, k).read())
    padded = volume()
    padded[:, :2] = -2000
    folder = series(tmp_path / "pad", padded, PixelPaddingValue=-2000)
    image, valid = Slice(folder, 2, 3).read_valid()
    seen = image[..., 0]
    assert valid is not None
    assert np.array_equal(valid, padded[3] != -2000)
    assert (seen[:2] == 0).all()
    low, high = np.percentile(volume()[::4, 4::4, ::4], (0.1, 99.9))
    expected = ((volume()[3, 2:] - low) / (high - low) * 255).clip(0, 255).round()
    assert np.array_equal(seen[2:], expected)
    deep = (volume() % 4096).astype(np.uint16)
    folder = series(tmp_path / "spare", deep | 0xA000, BitsStored=12, HighBit=11)
    assert np.array_equal(values_of(folder), deep)
    assert np.array_equal(sitk.GetArrayFromImage(by_simpleitk(folder)), deep)
    signed = (deep.astype(np.int16) - 2048) & 0x0FFF | 0x5000
    folder = series(tmp_path / "signed", signed.astype(np.int16), BitsStored=12, HighBit=11)
    assert np.array_equal(values_of(folder), deep.astype(int) - 2048)


def test_compressed(tmp_path: Path) -> None:
    """Read, or refused with the name of the package that helps."""
    data = make(volume(1)[0], **PLACED, ImagePositionPatient=[0, 0, 0])
    data.compress(RLELossless)
    path = save(data, tmp_path / "rle.dcm")
    assert np.array_equal(values_of(path)[0], volume(1)[0])
    for compressor in ("JPEG2000", "JPEG"):  # lossless both
        path = tmp_path / f"{compressor}.dcm"
        writer = sitk.ImageFileWriter()
        writer.SetFileName(str(path))
        writer.SetUseCompression(True)
        writer.SetCompressor(compressor)
        writer.Execute(sitk.GetImageFromArray(volume(1, np.uint16)))
        expected = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))[0]
        if compressor == "JPEG" and not JPEGLosslessSV1Decoder.is_available:
            with pytest.raises(DataError, match=r"Unable to decompress.*pip install python-gdcm"):
                read_values_of(path)
        else:
            assert np.array_equal(read_values_of(path), expected)


def encapsulated(values: np.ndarray, syntax: str, frames: list[bytes], **tags: Any) -> Any:
    data = make(values, **tags)
    data.PixelData = encapsulate(frames)
    data["PixelData"].is_undefined_length = True
    data.file_meta.TransferSyntaxUID = syntax
    return data


def test_compressed_by_the_codecs_of_cameras(tmp_path: Path) -> None:
    """JPEG baseline, JPEG-LS and deflated files as SimpleITK reads them; HTJ2K and films are
    refused with what helps."""
    grey = np.add.outer(np.arange(64) * 2, np.arange(80)).astype(np.uint8)
    colors = np.stack([grey, 255 - grey, np.roll(grey, 20, 1)], 2)
    jpeg = io.BytesIO()
    PIL.Image.fromarray(colors).save(jpeg, "JPEG", quality=95, subsampling=1)
    cases = [
        encapsulated(colors, JPEGBaseline8Bit, [jpeg.getvalue()],
                     PhotometricInterpretation="YBR_FULL_422"),
        encapsulated(grey, JPEGLSLossless, [imagecodecs.jpegls_encode(grey)]),
        make(grey, syntax=DeflatedExplicitVRLittleEndian),
    ]  # fmt: skip
    for i, data in enumerate(cases):
        path = save(data, tmp_path / f"{i}.dcm")
        expected = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))[0]
        seen = DicomImage(path).read()
        assert np.array_equal(seen if expected.ndim == 3 else seen[..., 0], expected)
    with pytest.raises(DataError, match=r"High-Throughput.*pip install pylibjpeg"):
        read_values_of(save(encapsulated(grey, HTJ2KLossless, [b"12"]), tmp_path / "h.dcm"))
    film = encapsulated(np.stack([grey] * 2), MPEG4HP41, [b"12"])
    with pytest.raises(DataError, match=r"cannot be read as DICOM.*a video: save it as \.mp4"):
        read_values_of(save(film, tmp_path / "film.dcm"))


def test_values_of_rare_kinds(tmp_path: Path) -> None:
    """Floats; palettes of 16 bits with entries of 8; tiles of a slide, which are no film; a slope
    of 0."""
    numbers = np.arange(80, dtype=np.uint8).reshape(8, 10)
    floats = make(numbers, BitsAllocated=32)
    floats.FloatPixelData = (numbers / np.float32(3)).astype("<f4").tobytes()
    for name in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        delattr(floats, name)
    found = read_values_of(save(floats, tmp_path / "f.dcm"))
    assert np.allclose(found, numbers / 3)
    palette = make(numbers, PhotometricInterpretation="PALETTE COLOR")
    lut = np.random.default_rng(1).integers(0, 256, (3, 256), np.uint16)
    for name, values in zip(("Red", "Green", "Blue"), lut, strict=True):
        setattr(palette, f"{name}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(palette, f"{name}PaletteColorLookupTableData", values.astype("<u2").tobytes())
    path = save(palette, tmp_path / "p.dcm")
    assert np.array_equal(DicomImage(path).read(), lut[:, numbers].transpose(1, 2, 0))
    tiles = make(np.stack([numbers] * 4), VLWholeSlideMicroscopyImageStorage,
                 TotalPixelMatrixColumns=20, TotalPixelMatrixRows=16)  # fmt: skip
    path = save(tiles, tmp_path / "slide.dcm")
    assert find_sources(str(path), False, tmp_path / "out")[0].kind != "video"
    with pytest.raises(DataError, match=r"slide\.dcm: holds tiles of an image 20 pixels wide"):
        DicomImage(path).read()
    with pytest.raises(DataError, match="RescaleSlope is 0"):
        read_header(save(make(numbers, RescaleSlope=0), tmp_path / "z.dcm"))


def read_values_of(path: Path) -> np.ndarray:
    header = read_header(path)
    assert header is not None
    return read_values(header.frames[0])[0]


def test_what_predict_finds(tmp_path: Path) -> None:
    """Slices of one folder are a volume; radiographs are images; reports are nothing."""
    root = tmp_path / "in"
    series(root / "ct", volume())
    for i in range(2):
        radiograph = make(volume(1)[0], SeriesInstanceUID=generate_uid())
        save(radiograph, root / f"xray/{i}")
    save(cine(volume(3).astype(np.uint8)), root / "us/clip.dcm")
    (root / "ct/__MACOSX").mkdir()
    PIL.Image.new("RGB", (8, 8)).save(root / "ct/photo.png")  # beside slices, and not lost
    found = find_sources(str(root), True, tmp_path / "out")
    assert [(source.name, source.kind) for source in found] == [
        ("ct", "volume"), ("ct/photo", "image"), ("us/clip", "video"),
        ("xray/0", "image"), ("xray/1", "image"),
    ]  # fmt: skip
    assert [s.name for s in find_sources(str(root), False, tmp_path / "out")] == ["ct"]


@pytest.mark.parametrize("axis", [0, 2])
def test_a_series_that_is_written_again_is_another(tmp_path: Path, axis: int) -> None:
    """In one process, as in a notebook; files inside a folder change nothing of the folder."""
    rng = np.random.default_rng(0)
    first, second = (rng.integers(0, 4000, (4, 16, 16), np.uint16) for _ in range(2))
    folder = series(tmp_path / "again", first)
    old, digest = Slice(folder, axis, 1).read(), Slice(folder, axis, 1).digest()
    modified = folder.stat().st_mtime_ns
    series(folder, second)
    assert folder.stat().st_mtime_ns == modified
    new = Slice(folder, axis, 1)
    assert new.digest() != digest
    fresh = Slice(series(tmp_path / "fresh", second), axis, 1)
    assert np.array_equal(new.read(), fresh.read())
    assert not np.array_equal(new.read(), old)
