"""The registry of SAMs: a dict of checkpoints by name (`--sam`).

`autosam.config.sams` lists the names for command lines that answer before torch is imported.
"""

from __future__ import annotations

from functools import partial

from autosam.models.sam.base import SamSpec
from autosam.models.sam.hq import build_hq, from_hq_sam
from autosam.models.sam.huggingface import from_huggingface
from autosam.models.sam.lite import build_lite, from_lite
from autosam.models.sam.meta import build_meta
from autosam.models.sam.mobile import build_mobile, from_mobile_sam
from autosam.models.sam.sam2 import build_sam2, from_sam2_file
from autosam.models.sam.sam3 import build_sam3, from_sam3_file
from autosam.models.sam.vit import from_meta

_META = "https://dl.fbaipublicfiles.com/segment_anything/"
_HUB = "https://huggingface.co/"
_BIOIMAGE = "https://uk1s3.embassy.ebi.ac.uk/public-datasets/bioimage.io/"
_HQ = {
    "vit_b": "14a9d662cd6f5a9c2dba6d40ab0058d88d287e4a18fd6fdc6ad5fb1a3fdeaa57",
    "vit_l": "e1a6c385d62bf005ded91a54d5ec55c985cfc4103ef89c08d90f39f04934c343",
    "vit_h": "a7ac14a085326d9fa6199c8c698c4f0e7280afdbb974d2c4660ec60877b45e35",
    "vit_tiny": "0f32c075ccdd870ae54db2f7630e7a0878ede5a2b06d05d6fe02c65a82fb7196",
}
"""SHA-256 by size."""
_MICRO_SAM = "Archit et al. 2025, Nature Methods 22:579, doi 10.1038/s41592-024-02580-4"
_VIT_B = (partial(build_meta, variant="vit_b"), "ViT-B", from_meta, 375)
_VIT_L = (partial(build_meta, variant="vit_l"), "ViT-L", from_meta, 1250)
_VIT_T = (build_mobile, "TinyViT-5M", from_mobile_sam, 40.7)
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
            convert=from_lite,
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
                convert=from_meta,
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
        *(
            SamSpec(
                name,
                partial(build_meta, variant=variant),
                image_size=1024,
                architecture=architecture,
                convert=from_huggingface,
                file=f"{name}.safetensors",
                source=f"{_HUB}facebook/{name}/resolve/main/model.safetensors",
                megabytes=megabytes,
                licence="Apache-2.0",
                paper=_SAM,
            )
            for name, variant, architecture, megabytes in (
                ("sam-vit-base", "vit_b", "ViT-B", 375),
                ("sam-vit-large", "vit_l", "ViT-L", 1250),
                ("sam-vit-huge", "vit_h", "ViT-H", 2560),
            )
        ),
        SamSpec(
            "mobile_sam",
            build_mobile,
            image_size=1024,
            architecture="TinyViT-5M",
            convert=from_mobile_sam,
            file="mobile_sam.pt",
            # The copy of the demo, which states a hash; github.com/ChaoningZhang/MobileSAM has the
            # same file in weights/.
            source=f"{_HUB}dhkim2810/MobileSAM/resolve/main/mobile_sam.pt",
            sha256="6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
            megabytes=40.7,
            licence="Apache-2.0",
            paper="Zhang et al. 2023, arXiv 2306.14289",
        ),
        # MedSAM resizes images to the square by scikit-image's cubic interpolation; here Pillow's
        # antialiased bilinear interpolation is used, as for every other SAM.
        SamSpec(
            "medsam",
            partial(build_meta, variant="vit_b"),
            image_size=1024,
            architecture="ViT-B",
            pixel_mean=None,
            pixel_std=None,
            geometry="square",
            convert=from_meta,
            file="medsam_vit_b.pth",
            source="https://zenodo.org/records/10689643/files/medsam_vit_b.pth",
            megabytes=375,
            licence="Apache-2.0",
            paper="Ma et al. 2024, Nature Communications 15:654, arXiv 2304.12306",
        ),
        # micro-sam: SAM and MobileSAM tuned to microscopy, of images whose channels are stretched.
        *(
            SamSpec(
                name,
                build,
                image_size=1024,
                architecture=architecture,
                stretch=True,
                convert=rename,
                file=f"{name}.pt",
                source=f"{_BIOIMAGE}{path}/files/{name[:5]}.pt",
                megabytes=megabytes,
                licence="CC-BY-4.0",
                paper=_MICRO_SAM,
            )
            for name, build, architecture, rename, megabytes, path in (
                ("vit_b_lm", *_VIT_B, "diplomatic-bug/1.2"),
                ("vit_b_em_organelles", *_VIT_B, "noisy-ox/1.2"),
                ("vit_l_lm", *_VIT_L, "idealistic-rat/1.2"),
                ("vit_l_em_organelles", *_VIT_L, "humorous-crab/1.2"),
                ("vit_t_lm", *_VIT_T, "faithful-chicken/1.1"),
                ("vit_t_em_organelles", *_VIT_T, "greedy-whale/1"),
            )
        ),
        *(
            SamSpec(
                f"sam_hq_{size}",
                partial(build_hq, variant=size),
                image_size=1024,
                architecture=f"HQ {architecture}",
                convert=from_hq_sam,
                file=f"sam_hq_{size}.pth",
                source=f"{_HUB}lkeab/hq-sam/resolve/main/sam_hq_{size}.pth",
                sha256=_HQ[size],
                megabytes=megabytes,
                licence="Apache-2.0",
                paper="Ke et al. 2023, arXiv 2306.01567",
            )
            for size, architecture, megabytes in (
                ("vit_b", "ViT-B", 379),
                ("vit_l", "ViT-L", 1255),
                ("vit_h", "ViT-H", 2571),
                ("vit_tiny", "TinyViT-5M", 42.5),
            )
        ),
        *(
            SamSpec(
                f"sam2.1-{size}",
                build_sam2,
                image_size=1024,
                architecture=architecture,
                geometry="square",
                convert=from_sam2_file,
                file=f"sam2.1-hiera-{size}.safetensors",
                source=f"{_HUB}facebook/sam2.1-hiera-{size}/resolve/main/model.safetensors",
                megabytes=megabytes,
                licence="Apache-2.0",
                paper="Ravi et al. 2024, arXiv 2408.00714",
            )
            for size, architecture, megabytes in (
                ("tiny", "Hiera-T", 156),
                ("small", "Hiera-S", 184),
                ("base-plus", "Hiera-B+", 324),
                ("large", "Hiera-L", 898),
            )
        ),
        SamSpec(
            "sam3",
            build_sam3,
            image_size=1008,
            architecture="PE-L+",
            pixel_mean=(127.5, 127.5, 127.5),
            pixel_std=(127.5, 127.5, 127.5),
            geometry="square",
            convert=from_sam3_file,
            file="sam3.safetensors",
            source=f"{_HUB}facebook/sam3/resolve/main/model.safetensors",
            megabytes=3440,
            licence="SAM License",
            paper="Carion et al. 2025, arXiv 2511.16719",
        ),
    )
}
