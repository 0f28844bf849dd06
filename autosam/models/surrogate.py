"""The surrogate decoder: what a dense prompt says by itself, without SAM.

Shaharabany et al. 2023 (arXiv 2306.06370), section 3: a shallow network turns g(I) into a mask.
"""

from __future__ import annotations

from torch import Tensor, nn

FINER = 4
"""Cells of the mask in each row and column of a cell of the prompt, as in SAM's masks."""


class SurrogateDecoder(nn.Module):
    """float P x C x h x w, dense prompt embeddings -> logits float P x 4h x 4w.

    Each cell is unfolded on its own (a deconvolution whose kernels do not overlap), so the mask
    shows what the prompt holds there and nothing that this network has learned of shapes. It costs
    about a hundredth of a training step.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(width, width // 4, 1),
            nn.GELU(),
            nn.Conv2d(width // 4, FINER**2, 1),
            nn.PixelShuffle(FINER),
        )

    def forward(self, dense: Tensor) -> Tensor:
        return self.layers(dense)[:, 0]
