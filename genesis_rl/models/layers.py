"""Building blocks that know nothing of objects: gated convolutions, Gaussians, a broadcast decoder.

Shapes: B images, H x W pixels, L latent dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genesis_rl.models.gates import batch_norm_gate

Norm = Literal["batch", "instance", "none"]


class Gaussian(NamedTuple):
    """A diagonal Gaussian.

    Attributes:
        mean: `[..., L]`.
        std: `[..., L]`, positive.
    """

    mean: Tensor
    std: Tensor

    def sample(self, noise: Tensor | None) -> Tensor:
        """Returns `mean + std * noise`, or the mean itself where no noise is given."""
        return self.mean if noise is None else self.mean + self.std * noise

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns the log density of each dimension, `[..., L]`, in nats."""
        z = (value - self.mean) / self.std
        return -0.5 * z * z - self.std.log() - 0.5 * math.log(2 * math.pi)


def posterior_gaussian(parameters: Tensor) -> Gaussian:
    """Reads `[..., 2 L]` network outputs as a posterior: free mean, softplus deviation."""
    mean, raw = parameters.float().chunk(2, dim=-1)
    return Gaussian(mean, F.softplus(raw + 0.5) + 1e-8)


def prior_gaussian(parameters: Tensor, *, squash_mean: bool = True) -> Gaussian:
    """Reads `[..., 2 L]` network outputs as a prior: mean in (-1, 1), deviation in (1e-4, 1.0001).

    Neither bound is in the paper; the authors' release has both. `squash_mean=False` leaves the
    mean unbounded, which is what that release's sampler (but not its training) does.
    """
    mean, raw = parameters.float().chunk(2, dim=-1)
    return Gaussian(mean.tanh() if squash_mean else mean, torch.sigmoid(raw + 4) + 1e-4)


def monte_carlo_kl(posterior: Gaussian, prior: Gaussian, value: Tensor) -> Tensor:
    """Returns the one-sample estimate of KL(posterior || prior) at `value`, summed over L."""
    return (posterior.log_prob(value) - prior.log_prob(value)).sum(dim=-1)


def full_precision(like: Tensor) -> torch.autocast:
    """Switches autocast off: latents, priors and losses are float32 whatever convolutions use."""
    return torch.autocast(like.device.type, enabled=False)


def normalisation(kind: Norm, channels: int) -> nn.Module:
    """Returns the normalisation layer of that kind."""
    match kind:
        case "batch":
            return nn.BatchNorm2d(channels)
        case "instance":
            return nn.InstanceNorm2d(channels, affine=True)
        case "none":
            return nn.Identity()
    raise ValueError(f"norm must be 'batch', 'instance' or 'none', but got {kind!r}")


def convolve(x: Tensor, conv: nn.Conv2d | nn.ConvTranspose2d, bias: Tensor | None) -> Tensor:
    """Maps `[B, in, H, W]` by a convolution, transposed or not, with the bias given or none."""
    padding = conv.padding
    assert not isinstance(padding, str)
    if isinstance(conv, nn.ConvTranspose2d):
        extra = conv.output_padding
        return F.conv_transpose2d(x, conv.weight, bias, conv.stride, padding, extra)
    return F.conv2d(x, conv.weight, bias, conv.stride, padding)


Convolve = Callable[[Tensor, Any, Tensor | None], Tensor]


class Conv(nn.Conv2d):
    """A convolution for which who trains may set a faster function with the same results."""

    convolve: Convolve = staticmethod(convolve)

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[B, in, H, W]` to `[B, out, H', W']`."""
        return self.convolve(x, self, self.bias)


def activated(x: Tensor, conv: Any, activation: Any) -> Tensor:
    """Maps `[B, in, H, W]` by a `Conv` and its activation."""
    return activation(conv(x))


Activated = Callable[[Tensor, Any, Any], Tensor]


def spread(grid: Tensor, latents: Tensor, activation: Any) -> Tensor:
    """Adds `[B, C]` to every pixel of one image `[1, C, H, W]`, activated: `[B, C, H, W]`."""
    return activation(grid + latents[:, :, None, None])


Spread = Callable[[Tensor, Tensor, Any], Tensor]


class GatedConv(nn.Module):
    """Convolution, normalisation, gated linear unit: `norm(h) * sigmoid(norm(g))`.

    The two halves h and g come out of one convolution. Normalising all 2 x `out_channels` of them
    at once is the same as normalising each half, because both norms work channel by channel.
    """

    # Of the training pass. Who trains may set faster functions with the same results on a layer.
    convolve: Convolve = staticmethod(convolve)
    batch_norm_gate = staticmethod(batch_norm_gate)

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, norm: Norm):
        super().__init__()
        self.conv: nn.Conv2d | nn.ConvTranspose2d = nn.Conv2d(
            in_channels, 2 * out_channels, kernel_size=5, stride=stride, padding=2
        )
        self.norm = normalisation(norm, 2 * out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[B, in, H, W]` to `[B, out, H / stride, W / stride]`."""
        if self.training and isinstance(self.norm, nn.BatchNorm2d) and self.conv.bias is not None:
            x = self.convolve(x, self.conv, None)
            return self.batch_norm_gate(x, self.norm, self.conv.bias)
        return F.glu(self.norm(self.conv(x)), dim=1)


class GatedDeconv(GatedConv):
    """The same with a transposed convolution: the image grows by `stride`."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, norm: Norm):
        super().__init__(in_channels, out_channels, stride=stride, norm=norm)
        self.conv = nn.ConvTranspose2d(
            in_channels, 2 * out_channels, 5, stride=stride, padding=2, output_padding=stride - 1
        )


class Readout(Conv):
    """1x1 convolution to a few channels: that many weighted sums of a pixel's features."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels, kernel_size=1)


class GatedFlatten(nn.Module):
    """Gated convolution as large as its input, hence a linear layer; not normalised.

    Pixels are flattened in the order (row, column, channel), which is how channels-last tensors lie
    in memory, so no copy is made.
    """

    def __init__(self, in_channels: int, out_features: int, *, size: int):
        super().__init__()
        self.linear = nn.Linear(size * size * in_channels, 2 * out_features)

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[B, in, size, size]` to `[B, out]`."""
        return F.glu(self.linear(x.permute(0, 2, 3, 1).flatten(start_dim=1)), dim=1)


class GatedUnflatten(nn.Module):
    """Gated transposed convolution of one pixel, hence a linear layer with one bias a channel."""

    def __init__(self, in_features: int, out_channels: int, *, size: int):
        super().__init__()
        self.size = size
        self.weight = nn.Parameter(torch.empty(size * size * 2 * out_channels, in_features))
        self.bias = nn.Parameter(torch.empty(2 * out_channels))
        bound = 1 / math.sqrt(
            2 * out_channels * size * size
        )  # as nn.ConvTranspose2d is initialised
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, z: Tensor) -> Tensor:
        """Maps `[B, in]` to `[B, out, size, size]`, laid out channels-last."""
        pixels = F.linear(z, self.weight).unflatten(1, (self.size, self.size, -1))
        gated = F.glu(pixels + self.bias.to(pixels.dtype), dim=-1)
        return gated.permute(0, 3, 1, 2)


class LSTMCell(nn.LSTMCell):
    """`nn.LSTMCell` written out, so that `torch.compile` can fuse it; CUDA's own is opaque."""

    def forward(
        self, x: Tensor, state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Maps input `[B, in]` and state (hidden, cell) to the next state; no state means zeros."""
        return self.advance(self.drive(x), state)

    def drive(self, x: Tensor) -> Tensor:
        """Returns what inputs `[..., in]` add to the gates: of many steps at once, if known."""
        return F.linear(x, self.weight_ih, self.bias_ih + self.bias_hh)

    def advance(self, gates: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        """Makes a step from the input's share of the gates, `[B, 4 hidden]`."""
        if state is None:
            return lstm_step(gates, None)
        return lstm_step(gates + F.linear(state[0], self.weight_hh), state[1])


def lstm_step(gates: Tensor, cell: Tensor | None) -> tuple[Tensor, Tensor]:
    """Maps gates `[B, 4 hidden]` and the cell's state to the next hidden and cell state."""
    take, forget, candidate, emit = gates.chunk(4, dim=1)
    seen = take.sigmoid() * candidate.tanh()
    cell = seen if cell is None else seen + forget.sigmoid() * cell
    return emit.sigmoid() * cell.tanh(), cell


class BroadcastDecoder(nn.Module):
    """Spatial broadcast decoder (Watters et al., 2019): a latent on every pixel, plus coordinates.

    The latent is tiled over a grid 8 pixels wider than the image, because each of the four 3x3
    convolutions is unpadded and eats one pixel a side. Coordinates run from -1 to 1, row first, and
    come after the latent's channels.
    """

    # Who trains may set faster functions with the same results. The last one, if there is any,
    # maps the last convolved image, the bias that it lacks and the readout to what is read out.
    spread: Spread = staticmethod(spread)
    activated: Activated = staticmethod(activated)
    active_readout: Callable[[Tensor, Tensor, Readout], Tensor] | None = None

    def __init__(
        self,
        latents: int,
        channels: int,
        *,
        width: int,
        image_size: int,
        activation: type[nn.Module] = nn.ELU,
    ):
        super().__init__()
        self.activation = activation()
        # In place, so that the gradient needs its output, which the next layer keeps anyway.
        self.later_activation = activation(inplace=True)
        self.first = nn.Conv2d(latents + 2, width, kernel_size=3)
        self.later = nn.ModuleList(Conv(width, width, kernel_size=3) for _ in range(3))
        self.readout = Readout(width, channels)
        axis = torch.linspace(-1, 1, image_size + 8)
        self.register_buffer(
            "coordinates",
            torch.stack(torch.meshgrid(axis, axis, indexing="ij"))[None],  # [1, 2, S + 8, S + 8]
            persistent=False,
        )
        self.coordinates: Tensor

    def forward(self, z: Tensor) -> Tensor:
        """Maps `[B, L]` to `[B, channels, S, S]`, unbounded."""
        # A convolution of a constant image is a linear map: the tiled grid is never built.
        by_latent, by_coordinate = self.first.weight.split([z.shape[1], 2], dim=1)
        grid = F.conv2d(self.coordinates, by_coordinate, self.first.bias)
        x = self.spread(grid, F.linear(z, by_latent.sum(dim=(2, 3))), self.activation)
        *earlier, last = self.later
        for conv in earlier:
            x = self.activated(x, conv, self.later_activation)
        if self.active_readout is None:
            return self.readout(self.activated(x, last, self.later_activation))
        assert isinstance(last, Conv)
        assert last.bias is not None
        return self.active_readout(last.convolve(x, last, None), last.bias, self.readout)
