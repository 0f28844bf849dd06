"""Every checkpoint that can be asked for by name: a plain dict."""

from __future__ import annotations

from autosam.models.sam.base import SamSpec
from autosam.models.sam.lite import build_lite
from autosam.models.sam.meta import build_meta

_META = "https://dl.fbaipublicfiles.com/segment_anything/"
_SAM = "Kirillov et al. 2023, arXiv 2304.02643"

SAMS: dict[str, SamSpec] = {
    spec.name: spec
    for spec in (
        SamSpec(
            "lite",
            build_lite,
            image_size=256,
            architecture="EfficientNet-Lite0",
            pixel_mean=(127.5, 127.5, 127.5),
            pixel_std=(127.5, 127.5, 127.5),
            file="sam_lite.safetensors",
            source="shipped with autosam",
            licence="Apache-2.0",
            paper=_SAM,
        ),
        *(
            SamSpec(
                name,
                build_meta,
                image_size=1024,
                architecture=architecture,
                file=file,
                source=_META + file,
                sha256=file[-10:-4],  # Meta's file names carry its start
                megabytes=megabytes,
                licence="Apache-2.0",
                paper=_SAM,
            )
            for name, architecture, file, megabytes in (
                ("vit_b", "ViT-B", "sam_vit_b_01ec64.pth", 375),
                ("vit_l", "ViT-L", "sam_vit_l_0b3195.pth", 1250),
                ("vit_h", "ViT-H", "sam_vit_h_4b8939.pth", 2560),
            )
        ),
    )
}
