"""The network whose features the FID is defined on: Inception v3 as TensorFlow had it in 2015.

Szegedy et al. (2016), with the weights of `inception-2015-12-05` that the public file
`pt_inception-2015-12-05-6726825d.pth` holds in torch's format. It differs from torchvision's
Inception in its weights and in three places: average pools leave the padding out of the mean, the
last block pools by the maximum, and there are 1,008 classes. Names of layers are the file's.

Shapes: B images, H x W pixels; images go through the network at 299 x 299.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

METRIC = "FID"

FILE = "pt_inception-2015-12-05-6726825d.pth"
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
BYTES = 95_628_359
URL = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{FILE}"

FEATURES = 2048
SIDE = 299  # pixels


class Inception(nn.Module):
    """Images to the 2,048 numbers before the classifier, which is left out.

    Example:
        >>> Inception().eval()(torch.zeros(1, 3, 64, 64)).shape
        torch.Size([1, 2048])
    """

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Conv(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = Conv(32, 32, 3)
        self.Conv2d_2b_3x3 = Conv(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = Conv(80, 192, 3)
        self.Mixed_5b = Fine(192, pooled=32)
        self.Mixed_5c = Fine(256, pooled=64)
        self.Mixed_5d = Fine(288, pooled=64)
        self.Mixed_6a = FineToMiddle(288)
        self.Mixed_6b = Middle(768, narrow=128)
        self.Mixed_6c = Middle(768, narrow=160)
        self.Mixed_6d = Middle(768, narrow=160)
        self.Mixed_6e = Middle(768, narrow=192)
        self.Mixed_7a = MiddleToCoarse(768)
        self.Mixed_7b = Coarse(1280, pool="average")
        self.Mixed_7c = Coarse(2048, pool="max")

    def forward(self, images: Tensor) -> Tensor:
        """Returns features `[B, 2048]` of images `[B, 3, H, W]` in [0, 1]."""
        size = (SIDE, SIDE)
        x = F.interpolate(images, size=size, mode="bilinear", align_corners=False)
        x = 2 * x - 1
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))  # [B, 64, 147, 147]
        x = F.max_pool2d(x, 3, stride=2)
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x))  # [B, 192, 71, 71]
        x = F.max_pool2d(x, 3, stride=2)
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))  # [B, 288, 35, 35]
        x = self.Mixed_6b(self.Mixed_6a(x))  # [B, 768, 17, 17]
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(x)))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))  # [B, 2048, 8, 8]
        features: Tensor = x.mean(dim=(2, 3))
        return features


class Conv(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int | tuple[int, int],
        *,
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


def row(inputs: int, outputs: int, kernel: int) -> Conv:
    """A convolution one pixel high that keeps the size."""
    return Conv(inputs, outputs, (1, kernel), padding=(0, kernel // 2))


def column(inputs: int, outputs: int, kernel: int) -> Conv:
    """A convolution one pixel wide that keeps the size."""
    return Conv(inputs, outputs, (kernel, 1), padding=(kernel // 2, 0))


def average(x: Tensor) -> Tensor:
    """Mean over 3 x 3 pixels; at the border, over those that exist."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class Fine(nn.Module):
    """Block at 35 x 35: `inputs` channels to 224 + `pooled`."""

    def __init__(self, inputs: int, *, pooled: int):
        super().__init__()
        self.branch1x1 = Conv(inputs, 64, 1)
        self.branch5x5_1 = Conv(inputs, 48, 1)
        self.branch5x5_2 = Conv(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = Conv(inputs, 64, 1)
        self.branch3x3dbl_2 = Conv(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Conv(96, 96, 3, padding=1)
        self.branch_pool = Conv(inputs, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        five = self.branch5x5_2(self.branch5x5_1(x))
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), five, three, self.branch_pool(average(x))], dim=1)


class FineToMiddle(nn.Module):
    """35 x 35 to 17 x 17: adds 480 channels to the `inputs` that are pooled."""

    def __init__(self, inputs: int):
        super().__init__()
        self.branch3x3 = Conv(inputs, 384, 3, stride=2)
        self.branch3x3dbl_1 = Conv(inputs, 64, 1)
        self.branch3x3dbl_2 = Conv(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Conv(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, stride=2)], dim=1)


class Middle(nn.Module):
    """Block at 17 x 17 with 7 x 7 filters taken apart: `inputs` channels to 768."""

    def __init__(self, inputs: int, *, narrow: int):
        super().__init__()
        self.branch1x1 = Conv(inputs, 192, 1)
        self.branch7x7_1 = Conv(inputs, narrow, 1)
        self.branch7x7_2 = row(narrow, narrow, 7)
        self.branch7x7_3 = column(narrow, 192, 7)
        self.branch7x7dbl_1 = Conv(inputs, narrow, 1)
        self.branch7x7dbl_2 = column(narrow, narrow, 7)
        self.branch7x7dbl_3 = row(narrow, narrow, 7)
        self.branch7x7dbl_4 = column(narrow, narrow, 7)
        self.branch7x7dbl_5 = row(narrow, 192, 7)
        self.branch_pool = Conv(inputs, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        single = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), single, double, self.branch_pool(average(x))], dim=1)


class MiddleToCoarse(nn.Module):
    """17 x 17 to 8 x 8: adds 512 channels to the `inputs` that are pooled."""

    def __init__(self, inputs: int):
        super().__init__()
        self.branch3x3_1 = Conv(inputs, 192, 1)
        self.branch3x3_2 = Conv(192, 320, 3, stride=2)
        self.branch7x7x3_1 = Conv(inputs, 192, 1)
        self.branch7x7x3_2 = row(192, 192, 7)
        self.branch7x7x3_3 = column(192, 192, 7)
        self.branch7x7x3_4 = Conv(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_2(self.branch3x3_1(x))
        seven = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        return torch.cat([three, self.branch7x7x3_4(seven), F.max_pool2d(x, 3, stride=2)], dim=1)


class Coarse(nn.Module):
    """Block at 8 x 8 whose branches end in a row and a column: `inputs` channels to 2,048."""

    def __init__(self, inputs: int, *, pool: str):
        super().__init__()
        self.pool = pool
        self.branch1x1 = Conv(inputs, 320, 1)
        self.branch3x3_1 = Conv(inputs, 384, 1)
        self.branch3x3_2a = row(384, 384, 3)
        self.branch3x3_2b = column(384, 384, 3)
        self.branch3x3dbl_1 = Conv(inputs, 448, 1)
        self.branch3x3dbl_2 = Conv(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = row(384, 384, 3)
        self.branch3x3dbl_3b = column(384, 384, 3)
        self.branch_pool = Conv(inputs, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = F.max_pool2d(x, 3, stride=1, padding=1) if self.pool == "max" else average(x)
        branches = [
            self.branch1x1(x),
            self.branch3x3_2a(three),
            self.branch3x3_2b(three),
            self.branch3x3dbl_3a(double),
            self.branch3x3dbl_3b(double),
            self.branch_pool(pooled),
        ]
        return torch.cat(branches, dim=1)


def find_weights(path: Path | None = None) -> Path | None:
    """Returns the file of weights: the given one, or that in torch hub's cache, or None.

    Raises:
        FileNotFoundError: A path was given, but there is no file.
    """
    if path is not None:
        path = path.expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"no Inception weights at {path}; get them from {URL}")
        return path
    cached = cached_path()
    return cached if cached.is_file() else None


def cached_path() -> Path:
    """Returns where torch hub keeps the file, whether or not it is there."""
    return Path(torch.hub.get_dir()) / "checkpoints" / FILE


def load_inception(path: Path) -> Inception:
    """Rebuilds the network from the public file, whose SHA-256 must be the published one.

    Raises:
        ValueError: The file is truncated, or another file.
    """
    found = path.stat().st_size
    if found != BYTES:
        kind = "is truncated" if found < BYTES else "is another file"
        raise ValueError(f"{path} {kind}: {found} bytes, not {BYTES}; get it again from {URL}")
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if digest != SHA256:
        raise ValueError(
            f"{path} is damaged or another file: its SHA-256 is {digest[:8]}.., not {SHA256[:8]}..;"
            f" get it again from {URL}"
        )
    # From memory, so that what is read is what was hashed.
    stored = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return from_state_dict(stored, str(path))


def from_state_dict(stored: Mapping[str, Any], source: str) -> Inception:
    """Returns the network with these weights, in eval mode; the classifier's are left out.

    Raises:
        ValueError: An entry is missing, unknown, or of another shape.
    """
    with torch.device("meta"):
        model = Inception()
    expected = {name: t.shape for name, t in model.state_dict().items() if _counts(name)}
    weights = {name: t for name, t in stored.items() if _counts(name) and name[:3] != "fc."}
    wrong = sorted(expected.keys() ^ weights.keys())
    wrong = wrong or [name for name in expected if weights[name].shape != expected[name]]
    if wrong:
        raise ValueError(f"{source} is not the FID's Inception: {len(wrong)} entries, {wrong[:3]}")
    model = model.to_empty(device="cpu")
    model.load_state_dict(weights, strict=False)  # all but how many batches the norms have seen
    return model.eval().requires_grad_(False)


def _counts(name: str) -> bool:
    return not name.endswith("num_batches_tracked")
