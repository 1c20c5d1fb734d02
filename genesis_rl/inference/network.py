"""Networks that can do nothing but encode: GENESIS stripped to that, other models as they are.

Like `Genesis.encode`, the stripped one leaves out the last slot's mask, the component decoder,
priors and losses. Beyond that, batch norms are folded into the convolutions, everything stays
channels-last, and a convolution's bias and activation take one pass over memory instead of three.

Shapes: B images, K slots, S x S pixels, M mask-latent and C component-latent dimensions, D = M + C.
"""

from __future__ import annotations

import abc

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genesis_rl.inference.layers import (
    CHANNELS_LAST,
    LeanConv,
    LeanGatedConv,
    LeanLinear,
    LeanSlots,
    Operations,
    PlainOperations,
    WideLinear,
    draw,
    unit_scale,
    wide_linear,
)
from genesis_rl.models.genesis import Genesis
from genesis_rl.models.layers import (
    GatedConv,
    GatedFlatten,
    GatedUnflatten,
)
from genesis_rl.models.slots import SlotModel


class Frozen(nn.Module, abc.ABC):
    """A network without train mode that maps images to latents.

    Attributes:
        num_slots: K.
        slot_dim: D.
        mask_latents: M.
    """

    white: Tensor

    def __init__(self, model: SlotModel):
        super().__init__()
        self.num_slots, self.slot_dim = model.num_slots, model.slot_dim
        self.mask_latents = model.latent_sizes[0]
        self.register_buffer("white", torch.tensor(255.0))

    @abc.abstractmethod
    def forward(
        self, images: Tensor, noise: Tensor | None = None, *, mask_only: bool = False
    ) -> Tensor:
        """Returns posterior means `[B, K, D]`, or samples where noise is given.

        Args:
            images: `[B, 3, S, S]`, uint8 or float in [0, 1].
            noise: `[B, K, D]` standard normal numbers.
            mask_only: Returns mask latents alone, `[B, K, M]`.
        """

    def train(self, mode: bool = True) -> Frozen:
        """Stays in eval mode, whoever's submodule this becomes."""
        return super().train(False)

    def pixels(self, images: Tensor) -> Tensor:
        """Maps images to float32 in [0, 1]."""
        return unit_scale(images, self.white)


class FrozenModel(Frozen):
    """Any model, as it is.

    Args:
        model: Which becomes part of this.
        dtype: What its convolutions compute in.
    """

    def __init__(self, model: SlotModel, dtype: torch.dtype):
        super().__init__(model)
        self.model = model.requires_grad_(False)
        self.dtype = dtype
        self.train(False)

    @torch.no_grad()
    def forward(
        self, images: Tensor, noise: Tensor | None = None, *, mask_only: bool = False
    ) -> Tensor:
        """See `Frozen`."""
        x = self.pixels(images).contiguous(memory_format=CHANNELS_LAST)
        low = self.dtype != torch.float32
        # A cache of weights would outlive the CUDA graph whose memory it is in.
        with torch.autocast(x.device.type, self.dtype, enabled=low, cache_enabled=False):
            latents = self.model.encode(x, noise)
        return latents[..., : self.mask_latents] if mask_only else latents


class LeanGenesis(Frozen):
    """A frozen copy of `Genesis` without what encoding does not need.

    Args:
        model: Whose weights to take.
        dtype: What the convolutions compute in. The recurrent part and the heads, where an error
            would feed on itself, stay in float32.
        operations: `PlainOperations`, or the CUDA kernels.
        winograd: Whether convolutions that gain from it use `WinogradConv`, which is for the CPU.
        paired: Whether convolutions of few channels work on groups of pixels, which is for CUDA's
            matrix units.
        masks_at_once: How many masks are decoded together; None is all of them.
    """

    unflatten_weight: Tensor
    unflatten_bias: Tensor
    readout_weight: Tensor
    readout_bias: Tensor

    def __init__(
        self,
        model: Genesis,
        *,
        dtype: torch.dtype = torch.float32,
        operations: Operations | None = None,
        winograd: bool = False,
        paired: bool = False,
        masks_at_once: int | None = None,
    ):
        super().__init__(model)
        self.dtype = dtype
        self.masks_at_once = masks_at_once
        self.operations: Operations = operations or PlainOperations()
        masks, components = model.masks, model.components

        def gated(stack: nn.Sequential) -> nn.ModuleList:
            layers = [layer for layer in stack if isinstance(layer, GatedConv)]
            return nn.ModuleList(
                LeanGatedConv(layer, dtype, winograd=winograd, paired=paired) for layer in layers
            )

        self.encoder = gated(masks.encoder)
        flatten = masks.encoder[-1]
        assert isinstance(flatten, GatedFlatten)
        self.flatten = WideLinear(flatten.linear.weight, flatten.linear.bias, dtype)
        self.first_slot = LeanLinear(masks.first_slot.weight, masks.first_slot.bias)
        self.later_slots = LeanSlots(masks.later_slots, masks.later_slots_head)

        unflatten, readout = masks.decoder[0], masks.decoder[-1]
        assert isinstance(unflatten, GatedUnflatten)
        assert isinstance(readout, nn.Conv2d)
        assert readout.bias is not None
        self.decoder_size = unflatten.size
        self.register_buffer("unflatten_weight", unflatten.weight.detach().to(dtype).clone())
        self.register_buffer("unflatten_bias", unflatten.bias.detach().clone())
        self.decoder = gated(masks.decoder)
        self.register_buffer("readout_weight", readout.weight.detach().flatten().clone())
        self.register_buffer("readout_bias", readout.bias.detach().clone())

        self.component_convs = nn.ModuleList(
            LeanConv(conv, dtype, paired=paired)
            for conv in components.encoder
            if isinstance(conv, nn.Conv2d)
        )
        first, second = (layer for layer in components.head if isinstance(layer, nn.Linear))
        side = model.image_size // 16  # of the images that the head flattens, by channel first
        by_pixel = first.weight.unflatten(1, (-1, side, side)).permute(0, 2, 3, 1).flatten(1)
        self.component_head = nn.ModuleList(
            [LeanLinear(by_pixel, first.bias), LeanLinear(second.weight, second.bias)]
        )
        self.train(False)

    @torch.no_grad()
    def forward(
        self, images: Tensor, noise: Tensor | None = None, *, mask_only: bool = False
    ) -> Tensor:
        """See `Frozen`; mask latents alone cost a sixth of all of them."""
        x = self.operations.pixels(images, self.white, self.dtype)
        mask_noise = None if noise is None else noise[..., : self.mask_latents]
        mask_latents = self._mask_latents(self._features(x), mask_noise)
        if mask_only:
            return mask_latents
        slots = self.operations.slot_images(self._logits(mask_latents), x)
        component_noise = None if noise is None else noise[..., self.mask_latents :]
        component_latents = draw(self._component_parameters(slots), component_noise)
        return torch.cat([mask_latents, component_latents], dim=-1)

    def _features(self, x: Tensor) -> Tensor:
        for layer in self.encoder:
            x = layer(x, self.operations)
        flat = x.permute(0, 2, 3, 1).flatten(start_dim=1)  # no copy: x is channels-last
        return F.glu(self.flatten(flat).float(), dim=1)

    def _mask_latents(self, features: Tensor, noise: Tensor | None) -> Tensor:
        """Infers `[B, K, M]`, one slot after the other."""
        parts = [None] * self.num_slots if noise is None else list(noise.unbind(1))
        first = draw(self.first_slot(features), parts[0])
        later = self.later_slots(features, first, parts[1:])
        return torch.cat([first[:, None], later], dim=1)

    def _logits(self, mask_latents: Tensor) -> Tensor:
        """Decodes all slots but the last, which owns what they leave: `[B, K - 1, S, S]`."""
        z = mask_latents[:, :-1].to(self.dtype).flatten(end_dim=1)  # in this order: one copy
        pixels = wide_linear(z, self.unflatten_weight)  # [B * (K - 1), size * size * channels]
        x = pixels.unflatten(1, (self.decoder_size, self.decoder_size, -1)).permute(0, 3, 1, 2)
        if not self.operations.add_bias:
            x = x + self.unflatten_bias.to(x.dtype)[:, None, None]
        x = self.operations.gate(x, self.unflatten_bias)
        parts = [x] if self.masks_at_once is None else x.split(self.masks_at_once)
        logits = [self._decode(part) for part in parts]
        return torch.cat(logits).unflatten(0, (-1, self.num_slots - 1))

    def _decode(self, x: Tensor) -> Tensor:
        """Maps small `[N, C, H, W]` images of the mask decoder to its logits, `[N, S, S]`."""
        *layers, last = self.decoder
        for layer in layers:
            x = layer(x, self.operations)
        assert isinstance(last, LeanGatedConv)
        return last.to_logit(x, self.operations, self.readout_weight, self.readout_bias)

    def _component_parameters(self, slots: Tensor) -> Tensor:
        """Maps `[B * K, 4, S, S]` to the parameters of `[B, K, C]` component latents."""
        for layer in self.component_convs:
            assert isinstance(layer, LeanConv)
            slots = self.operations.elu(layer(slots, self.operations), layer.bias)
        features = slots.permute(0, 2, 3, 1).flatten(start_dim=1).float()
        first, second = self.component_head
        return second(F.elu(first(features))).unflatten(0, (-1, self.num_slots))
