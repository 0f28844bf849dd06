"""The surrogate decoder: what a dense prompt says by itself, without SAM.

Shaharabany et al. 2023 (arXiv 2306.06370), section 3: a shallow network of transposed convolutions
that turns g(I) into a mask.
"""

from __future__ import annotations

from torch import Tensor, nn


class SurrogateDecoder(nn.Module):
    """float P x C x h x w, dense prompt embeddings -> logits float P x 4h x 4w.

    Each cell is unfolded on its own (the kernels do not overlap), so the mask shows what the prompt
    holds there and nothing that this network has learned of shapes.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ConvTranspose2d(width, width // 4, 2, stride=2),
            nn.GELU(),
            nn.ConvTranspose2d(width // 4, width // 8, 2, stride=2),
            nn.GELU(),
            nn.Conv2d(width // 8, 1, 1),
        )

    def forward(self, dense: Tensor) -> Tensor:
        return self.layers(dense)[:, 0]
