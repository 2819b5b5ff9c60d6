"""Differential privacy: clipping, noise, and accounting of the budget."""

from incr_core.privacy._accountant import Accountant, least_noise, sampled_gaussian
from incr_core.privacy._adaptive_clip import AdaptiveClip
from incr_core.privacy._clipping import clipped, moved
from incr_core.privacy._noise import SecretNoise

__all__ = ["Accountant", "AdaptiveClip", "SecretNoise", "clipped", "least_noise", "moved", "sampled_gaussian"]
