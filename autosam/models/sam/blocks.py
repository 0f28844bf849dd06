"""Image encoders as sequences of blocks, so that a run can stop in front of any of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

State = tuple[Tensor, ...]
"""Between two blocks: the tokens, then the finer levels that earlier blocks left."""
Output = Tensor | tuple[Tensor, tuple[Tensor, ...]]
"""Of an image encoder, see `Sam`."""
LARGE_STATE = 1 << 20
"""Values of one image's tokens from which on a backward pass computes blocks again."""


class BlockEncoder(nn.Module):
    """Base class of image encoders: what comes before the blocks, each block, and what follows."""

    def each_block(self) -> list[nn.Module]:
        """The blocks, from the image on."""
        raise NotImplementedError

    def begin(self, pixels: Tensor) -> State:
        """Normalised pixels float B x 3 x S x S -> the state in front of the first block."""
        raise NotImplementedError

    def step(self, number: int, state: State) -> State:
        """The state behind block `number`."""
        raise NotImplementedError

    def finish(self, state: State) -> Output:
        """The encoder's output from the state behind the last block."""
        raise NotImplementedError

    def run(self, state: State, first: int, stop: int) -> State:
        """The state behind block `stop - 1` from the one in front of block `first`. With gradients,
        blocks of large images are computed again in the backward pass instead of being kept."""
        again = torch.is_grad_enabled() and state[0].shape[1:].numel() >= LARGE_STATE
        for number in range(first, stop):
            if again:
                state = checkpoint(self.step, number, state, use_reentrant=False)
            else:
                state = self.step(number, state)
        return state
