"""The loss of a run that learns to find objects."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou_loss

from autosam.models.instance_segmenter import ObjectLogits
from autosam.models.losses import SegmentationLoss
from autosam.types import Batch


class InstanceLoss(SegmentationLoss):
    """The loss of `SegmentationLoss` on the mask of each object, each counted the same, plus the
    quality focal loss (Li et al. 2020, arXiv 2006.04388) of the map of centres, and the generalised
    IoU (Rezatofighi et al. 2019, arXiv 1902.09630) of the boxes."""

    def of(self, output: ObjectLogits, batch: Batch) -> dict[str, Tensor]:  # type: ignore[override]
        """See `SegmentationLoss.of`."""
        objects = output.objects
        assert batch.centers is not None
        assert batch.weights is not None
        assert objects.masks is not None
        assert objects.boxes is not None
        parts = self(output.masks, objects.masks[:, None], batch.weights[objects.images])
        logits, target, weights = output.centers.float(), batch.centers, batch.weights
        each = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        each = each * (logits.sigmoid() - target) ** 2
        centers = (each * weights).sum() / (target * weights).sum().clamp(min=1)
        boxes = generalized_box_iou_loss(output.boxes, objects.boxes, reduction="mean")
        real = objects.masks.any().float()
        total = real * parts["loss"] + centers + real * boxes
        return parts | {"centers": centers, "boxes": real * boxes, "loss": total}
