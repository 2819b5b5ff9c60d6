"""Your own strategy in thirty lines: noise on the gradient, which finds flatter minima that forget less.

incr run examples/own_strategy/job.toml
"""

from __future__ import annotations

import torch

from incr_core.strategies import Context, Strategy


class GradientNoise(Strategy):
    """Add Gaussian noise, which decreases with the steps, to every gradient.

        g += strength / (1 + step)^0.55 * N(0, 1)

    Args:
        strength: Standard deviation of the first step's noise; 0 turns it off.

    Reference:
        Neelakantan et al. 2015, "Adding gradient noise improves learning for very deep networks", section 3.
    """

    def __init__(self, strength: float = 0.01) -> None:
        super().__init__()
        self.strength = strength

    def after_backward(self, ctx: Context) -> None:
        """Draw from the learner's own generator, so that a resumed run draws the same numbers."""
        _, gradients, _ = ctx.weights_and_gradients()
        scale = self.strength / (1 + ctx.step) ** 0.55
        if scale > 0:
            for gradient in gradients:
                gradient += scale * torch.randn(gradient.shape, generator=ctx.generator, device=gradient.device)
