"""The control without SAM: the generator's backbone and neck with a plain segmentation head."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from autosam.models.backbones.timm import Backbone
from autosam.models.neck import Neck, conv_block


class PlainHead(nn.Module):
    """uint8 B x 3 x G x G -> logits float B x K x G/2 x G/2.

    The same backbone, neck and input as the prompt generator, so that the difference to it is SAM.
    """

    def __init__(
        self, backbone: str, weights: str, view_size: int, neck_width: int, num_classes: int
    ) -> None:
        super().__init__()
        self.mask_size = view_size // 2
        self.backbone = Backbone(backbone, weights, view_size)
        self.neck = Neck(self.backbone.channels, self.backbone.strides, neck_width)
        self.block = conv_block(self.neck.channels, 32)
        self.classify = nn.Conv2d(32, num_classes, 1)

    def forward(self, images: Tensor, valid: Tensor) -> Tensor:
        x = self.neck(self.backbone(images, valid))
        x = F.interpolate(x, (self.mask_size, self.mask_size), mode="bilinear")
        return self.classify(self.block(x))
