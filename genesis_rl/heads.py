"""Heads: from K slots to one feature vector, for policies, values and probes.

Axes: B observations, K slots, D numbers a slot, F features. All but `ConcatMlp` are sums over
slots or pairs of them, so that the order of the slots does not matter: GENESIS gives an object
another slot whenever the scene changes enough. Sizes are those of OCRL (Yoon et al., ICML 2023),
whose agents these heads let one compare with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


class Head(nn.Module):
    """Maps slots `[B, K, D]` to features `[B, F]`.

    Attributes:
        features_dim: F.
    """

    features_dim: int


class ConcatMlp(Head):
    """Reads the slots side by side: the fastest head, and the only one that minds their order.

    Args:
        num_slots: K.
        slot_dim: D.
        widths: Units of each layer; the last is F.
    """

    def __init__(self, num_slots: int, slot_dim: int, widths: Sequence[int] = (128, 128)):
        super().__init__()
        self.features_dim = widths[-1]
        self.layers = _mlp(num_slots * slot_dim, widths)

    def forward(self, slots: Tensor) -> Tensor:
        """Maps `[B, K, D]` to `[B, F]`."""
        features: Tensor = self.layers(slots.flatten(1))
        return features


class DeepSets(Head):
    """The mean of what one network makes of each slot, read by another (Zaheer et al., 2017).

    Args:
        num_slots: K; not needed, any number of slots is taken.
        slot_dim: D.
        slot_widths: Of the network that sees one slot.
        widths: Of the network that sees the mean; the last is F.
    """

    def __init__(
        self,
        num_slots: int,
        slot_dim: int,
        slot_widths: Sequence[int] = (128, 128),
        widths: Sequence[int] = (128,),
    ):
        super().__init__()
        self.features_dim = widths[-1]
        self.each = _mlp(slot_dim, slot_widths)
        self.all = _mlp(slot_widths[-1], widths)

    def forward(self, slots: Tensor) -> Tensor:
        """Maps `[B, K, D]` to `[B, F]`."""
        features: Tensor = self.all(self.each(slots).mean(dim=1))
        return features


class RelationNetwork(Head):
    """The mean of what one network makes of each ordered pair of slots (Santoro et al., 2017).

    Args:
        num_slots: K; not needed, any number of slots is taken.
        slot_dim: D.
        pair_widths: Of the network that sees a pair.
        widths: Of the network that sees the mean; the last is F.
    """

    def __init__(
        self,
        num_slots: int,
        slot_dim: int,
        pair_widths: Sequence[int] = (256, 256, 256, 256),
        widths: Sequence[int] = (256, 128, 64, 64),
    ):
        super().__init__()
        self.features_dim = widths[-1]
        self.first = nn.Linear(slot_dim, pair_widths[0])
        self.second = nn.Linear(slot_dim, pair_widths[0], bias=False)
        self.pair = nn.Sequential(nn.ReLU(), _mlp(pair_widths[0], pair_widths[1:]))
        self.all = _mlp(pair_widths[-1], widths)

    def forward(self, slots: Tensor) -> Tensor:
        """Maps `[B, K, D]` to `[B, F]`."""
        # A linear layer on two slots side by side is the sum of a linear layer on each.
        pairs = self.first(slots)[:, :, None] + self.second(slots)[:, None]  # [B, K, K, W]
        features: Tensor = self.all(self.pair(pairs).mean(dim=(1, 2)))
        return features


class SlotTransformer(Head):
    """Slots and a learnt token that attend to each other; the token is read off.

    Without positional embedding, which is what makes slots a set.

    Args:
        num_slots: K; not needed, any number of slots is taken.
        slot_dim: D.
        width: Of the tokens; F.
        heads: Of attention; they share the width.
        depth: Layers; OCRL takes one, and three on the true state.
    """

    def __init__(
        self, num_slots: int, slot_dim: int, width: int = 128, heads: int = 8, depth: int = 1
    ):
        super().__init__()
        self.features_dim = width
        self.token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.embed = nn.Linear(slot_dim, width)
        layer = nn.TransformerEncoderLayer(
            width, heads, dim_feedforward=4 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)

    def forward(self, slots: Tensor) -> Tensor:
        """Maps `[B, K, D]` to `[B, F]`."""
        tokens = torch.cat([self.token.expand(len(slots), -1, -1), self.embed(slots)], dim=1)
        features: Tensor = self.norm(self.layers(tokens)[:, 0])
        return features


HEADS: dict[str, Callable[..., Head]] = {
    "mlp": ConcatMlp,
    "deepsets": DeepSets,
    "relation": RelationNetwork,
    "transformer": SlotTransformer,
}


def make_head(name: str, num_slots: int, slot_dim: int, **options: object) -> Head:
    """Builds a head by its name in `HEADS`.

    Raises:
        ValueError: There is no such head.

    Example:
        >>> head = make_head("transformer", num_slots=5, slot_dim=80)
        >>> head(torch.zeros(2, 5, 80)).shape, head.features_dim
        (torch.Size([2, 128]), 128)
    """
    if name not in HEADS:
        raise ValueError(f"head must be one of {', '.join(HEADS)}, but got {name!r}")
    return HEADS[name](num_slots, slot_dim, **options)


def _mlp(inputs: int, widths: Sequence[int]) -> nn.Sequential:
    """Linear layers, each followed by a ReLU."""
    layers: list[nn.Module] = []
    for before, after in zip([inputs, *widths], widths, strict=False):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers)
