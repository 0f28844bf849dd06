"""Image encoders as sequences of blocks, so that a run can stop in front of any of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from autosam.utils.device import DepthwiseInFloat32

State = tuple[Tensor, ...]
"""Between two blocks: the tokens, then the finer levels that earlier blocks left."""
Output = Tensor | tuple[Tensor, tuple[Tensor, ...]]
"""Of an image encoder, see `Sam`."""
LARGE_STATE = 1 << 20
"""Values of one image's tokens from which on a backward pass computes blocks again."""


class BlockEncoder(nn.Module):
    """Base class of image encoders: what comes before the blocks, each block, and what follows."""

    channels_last = False
    """Whether tokens are B x rows x columns x width instead of B x width x rows x columns. The
    finer levels of a state are B x width x rows x columns in any case."""

    def each_block(self) -> list[nn.Module]:
        """The blocks, from the image on."""
        raise NotImplementedError

    def begin(self, pixels: Tensor) -> State:
        """Normalised pixels float B x 3 x S x S -> the state in front of the first block."""
        raise NotImplementedError

    def step(self, number: int, state: State) -> State:
        """The state behind block `number`."""
        raise NotImplementedError

    def _step(self, number: int, state: State) -> State:
        """`step` in the same precision when it is computed again, outside of what was around it."""
        with DepthwiseInFloat32():
            return self.step(number, state)

    def finish(self, state: State) -> Output:
        """The encoder's output from the state behind the last block."""
        raise NotImplementedError

    def to_maps(self, state: State) -> State:
        """The state with its tokens as B x width x rows x columns, like every other map."""
        tokens, *finer = state
        return (tokens.permute(0, 3, 1, 2) if self.channels_last else tokens, *finer)

    def from_maps(self, maps: State) -> State:
        """The state whose maps `to_maps` returned."""
        tokens, *finer = maps
        return (tokens.permute(0, 2, 3, 1) if self.channels_last else tokens, *finer)

    def run(
        self, state: State, first: int, stop: int, taps: tuple[int, ...] = ()
    ) -> tuple[State, list[Tensor]]:
        """Compute some blocks. With gradients, those of large images are computed again in the
        backward pass instead of being kept.

        Args:
            state: in front of block `first`.
            first, stop: the blocks from `first` to `stop - 1`.
            taps: blocks whose output is wanted.

        Returns:
            The state behind the last of them, and the outputs of those in `taps`, float B x
            width x rows x columns.
        """
        again = torch.is_grad_enabled() and state[0].shape[1:].numel() >= LARGE_STATE
        kept = []
        for number in range(first, stop):
            if again:
                state = checkpoint(self._step, number, state, use_reentrant=False)
            else:
                state = self.step(number, state)
            if number in taps:
                kept.append(self.to_maps(state)[0])
        return state, kept
