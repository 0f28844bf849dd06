"""The plain network (runs `head` and `probe`): the prompt generator's backbone and neck, and a
segmentation head instead of SAM."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from autosam.config import ModelConfig
from autosam.models.backbones.timm import Backbone
from autosam.models.base import SegmentationModel
from autosam.models.neck import Neck, conv_block
from autosam.types import Batch, InputSpec, Prompt


class PlainHead(nn.Module):
    """uint8 B x C x G x G -> logits float B x K x G/2 x G/2.

    Backbone, neck and input equal those of the prompt generator, so runs differ in SAM alone.

    Args:
        config: backbone, neck and G.
        num_classes: K.
        weights: see `Backbone`; None: as in `config`.
        blocks, channels: see `Backbone`.
    """

    def __init__(
        self,
        config: ModelConfig,
        num_classes: int,
        weights: str | None = None,
        blocks: int = 1,
        channels: int | None = None,
    ) -> None:
        super().__init__()
        self.input_size, self.mask_size = config.input_size, config.input_size // 2
        self.backbone = Backbone(
            config.backbone,
            weights or config.backbone_weights,
            config.input_size,
            blocks,
            channels,
        )
        self.neck = Neck(self.backbone.channels, self.backbone.strides, config.width)
        self.block = conv_block(self.neck.channels, 32)
        self.classify = nn.Conv2d(32, num_classes, 1)

    def forward(self, images: Tensor, valid: Tensor) -> Tensor:
        x = self.neck(self.backbone(images, valid))
        x = F.interpolate(x, (self.mask_size, self.mask_size), mode="bilinear")
        return self.classify(self.block(x))


class PlainSegmenter(SegmentationModel):
    """A segmenter without SAM, for comparison.

    Args:
        head: the network.
        trainable: the parts that are trained.
    """

    def __init__(self, head: PlainHead, trainable: Sequence[nn.Module]) -> None:
        super().__init__(head.classify.out_channels)
        self.head = head
        self.set_trainable(trainable)

    @property
    def input_spec(self) -> InputSpec:
        """The sizes of inputs and targets."""
        size = self.head.input_size
        return InputSpec(size, size, self.head.mask_size, needs_image=False)

    @property
    def pretrained(self) -> list[nn.Module]:
        """The backbone."""
        return [self.head.backbone]

    def trainable_state(self) -> dict[str, Tensor]:
        """All weights: a frozen backbone, too, is part of the checkpoint."""
        return {key: value.detach() for key, value in self.state_dict(keep_vars=True).items()}

    def segment(self, batch: Batch) -> tuple[Tensor, Prompt | None]:
        """See `SegmentationModel.segment`."""
        return self.head(batch.generator_input, batch.generator_valid), None
