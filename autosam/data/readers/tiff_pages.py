"""Which pages of a TIFF file are the image, and which is its mask."""

from __future__ import annotations

from typing import Any

from autosam.errors import DataError

SLIDES = ("svs", "scn", "bif", "ndpi", "philips", "qpi", "avs")


def image_pages(file: Any, name: str, stack: bool) -> tuple[list[Any], Any]:
    """Find the pages of the image, and the page of its mask, if any.

    Reduced images (pyramids, thumbnails) and masks do not count as images.

    Args:
        file: a `tifffile.TiffFile`.
        name: for messages.
        stack: whether several pages of one band each are the bands of one image.

    Raises:
        DataError: several images, or none.
    """
    pages = list(file.pages)
    first = pages[0]
    if any(getattr(file, f"is_{kind}", False) for kind in SLIDES):
        return [file.series[0].levels[0].pages[0].aspage()], None
    full = [page for page in pages if not page.subfiletype & 0b101 and _old_type(page) != 2]
    if not full and first.tags.get(330) is not None:
        raise DataError(
            f"{name}: a thumbnail with subimages, as in raw files of cameras, which are not read. "
            "Save it as RGB."
        )
    full = [page.aspage() for page in full or [first]]
    first = full[0]
    masks = [
        page.aspage()
        for page in pages
        if page.subfiletype & 0b101 == 0b100 and page.shaped[2:4] == first.shaped[2:4]
    ]
    count = max(len(full), _planes(file, len(full)))
    alike = len(full) == count and all(page.shaped == first.shaped for page in full)
    series = file.series[0] if count > 1 and stack else None
    if series is not None:
        sides = zip(series.axes, series.shape, strict=True)
        alike &= sum(side > 1 for axis, side in sides if axis not in "YX") == 1
    if count > 1 and not stack:
        raise DataError(
            f"{name}: holds {count} pages. Save each as a file; bands of one image can be chosen "
            "by --data.bands, for example [1,2,3]."
        )
    if count > 1 and not (alike and first.shaped[0] * first.shaped[4] == 1):
        raise DataError(
            f"{name}: a stack of {count} pages {first.shaped[2]} x {first.shaped[3]} x "
            f"{first.shaped[0] * first.shaped[4]}; expected one image, or pages of one band each. "
            "Save each as a file."
        )
    return full, masks[0] if masks and count == 1 else None


def _old_type(page: Any) -> int:
    return int(getattr(page.tags.get(255), "value", 0) or 0) if hasattr(page, "tags") else 0


def _planes(file: Any, pages: int) -> int:
    """Number of images in the file; some formats store several on one page."""
    first = file.pages[0]
    if pages != 1:
        return pages
    if file.is_imagej:
        return int((file.imagej_metadata or {}).get("images", 1))
    if file.is_stk or file.is_shaped or file.is_ome:
        size = file.series[0].size
        return max(1, size // max(1, first.size))
    return 1
