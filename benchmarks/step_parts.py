"""Parts of a training step: which are far from what the card's arithmetic and memory allow?

Every convolution of the model's training pass is timed alone, forward and both gradients, on inputs
of its own shape, channels-last. Transposed convolutions are timed as what they equal, too: with
flipped weights, or as corners of squares; and convolutions of few channels in groups of
neighbouring pixels (`genesis_rl/inference/paired.py`). With `--tiles` the passes of
`pretrain/kernels` follow, for each setting of their tiles, and what updates the weights, beside
torch's Adam; CUDA only.

    python -m benchmarks.step_parts --device cuda --slots 5 --batch 32 --tiles
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if not __package__:  # run as a file: the checkout takes the place of this folder on the path
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.common import argument_parser, positive_int, prepare_device, run_cli, save_result
from benchmarks.speed_rows import Row, resolve_precision
from pretrain.command_line import positive_number

if TYPE_CHECKING:
    import torch
    from torch import nn

_REPEATS = 20  # of a call in one CUDA graph
# Elements of a tile, warps, tiles under way, programs of a sum, tiles of a writer; ours come first
TILES = (
    (2048, 4, 3, 396, 8),
    (2048, 4, 2, 396, 8),
    (2048, 4, 4, 396, 8),
    (2048, 4, 3, 264, 8),
    (2048, 4, 3, 792, 8),
    (2048, 4, 3, 396, 1),
    (1024, 4, 3, 528, 8),
    (1024, 2, 4, 792, 8),
    (4096, 8, 2, 264, 8),
    (4096, 4, 2, 264, 4),
)
PARTS = ((2048, 4), (1024, 4), (4096, 8), (8192, 8))  # numbers, warps; ours come first
_TILE_NAMES = ("_ELEMENTS", "_WARPS", "_STAGES", "_PROGRAMS", "_ROUNDS")


class Convolution(NamedTuple):
    """A convolution as a training pass calls it; shapes as torch has them."""

    image: tuple[int, ...]
    weight: tuple[int, ...]
    stride: tuple[int, int]
    padding: tuple[int, int]
    transposed: bool

    @property
    def output_padding(self) -> tuple[int, int]:
        """Which makes a transposed convolution enlarge its image by the stride exactly."""
        down, across = self.stride
        return (down - 1, across - 1) if self.transposed else (0, 0)

    def flipped(self) -> Convolution:
        """The ordinary convolution that a transposed one of stride 1 equals."""
        inputs, outputs, *kernel = self.weight
        padding = kernel[0] - 1 - self.padding[0], kernel[1] - 1 - self.padding[1]
        return Convolution(self.image, (outputs, inputs, *kernel), (1, 1), padding, False)

    def cornered(self) -> Convolution:
        """The ordinary convolution to all corners of squares that one of stride 2 equals."""
        inputs, outputs, *_ = self.weight
        return Convolution(self.image, (4 * outputs, inputs, 3, 3), (1, 1), (1, 1), False)

    def paired(self) -> Convolution:
        """The convolution in groups of neighbours that this equals; itself, if none is better."""
        import torch

        from genesis_rl.inference.paired import Taps, grouped, neighbours_for, paired_weight

        if self.transposed and self.stride != (1, 1):
            return self
        plain = self.flipped() if self.transposed else self
        taps = Taps(plain.weight[-1], plain.stride[0], plain.padding[0])
        together = neighbours_for(plain.image[1], taps)
        if together == 1 or plain.image[-1] % together:
            return self
        image, weight = (torch.empty(shape, device="meta") for shape in plain[:2])
        return Convolution(
            tuple(grouped(image, together).shape),
            tuple(paired_weight(weight, taps, together).shape),
            (taps.stride, 1),
            (taps.padding, taps.before(together)),
            False,
        )

    def __str__(self) -> str:
        """For people."""
        kind = "transposed" if self.transposed else "convolution"
        return f"{kind} {self.weight} / {self.stride[0]} of {self.image}"


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argument_parser(__doc__)
    parser.add_argument("--slots", type=positive_int, default=5)
    parser.add_argument("--batch", type=positive_int, default=32)
    parser.add_argument("--image-size", type=int, default=64, choices=(32, 64, 128))
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "tf32", "bf16"))
    parser.add_argument("--seconds", type=positive_number, default=0.1, help="roughly, per part")
    parser.add_argument("--tiles", action="store_true", help="try tiles of our own kernels")
    args = parser.parse_args(argv)
    device = prepare_device(args.device, args.threads)
    if args.tiles and device.type != "cuda":
        raise ValueError(f"--tiles needs a CUDA device, but the device is {device}")
    rows = list(convolution_rows(args, device))
    if args.tiles:
        rows += tile_rows(args, device)
        rows += update_rows(args, device)
    save_result(
        "step_parts", {"rows": rows}, device=device, seed=0, folder=args.results_dir, argv=argv
    )


def convolution_rows(args: Any, device: torch.device) -> Iterator[Row]:
    """Times every convolution of a training pass, prints and yields a row for each."""
    from pretrain.assembly import build_model
    from pretrain.config import Config

    model = build_model(Config(num_slots=args.slots, image_size=args.image_size))
    precision, total = resolve_precision(args.precision, device), 0.0
    for conv, calls in convolutions(model, args.batch, args.image_size).items():
        row: Row = {"what": "convolution", "shape": str(conv), "calls": calls}
        row |= time_convolution(conv, device, precision, args.seconds)
        others = {}
        if conv.transposed and conv.stride == (1, 1):
            others["flipped"] = conv.flipped()
        if conv.transposed and conv.stride == (2, 2):
            others["corners"] = conv.cornered()
        if conv.paired() != conv:
            others["paired"] = conv.paired()
        for kind, other in others.items():
            timed = time_convolution(other, device, precision, args.seconds)
            row |= {f"{kind}_{name}": value for name, value in timed.items()}
        total += calls * sum(row[name] for name in ("forward_ms", "of_image_ms", "of_weight_ms"))
        print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)
        yield row
    print(f"{total:.3f} ms of convolutions in a step of {args.batch} images, {args.slots} slots")


def convolutions(model: nn.Module, batch: int, size: int) -> Counter[Convolution]:
    """Returns the convolutions of a training pass on so many images, and how often each is called.

    A pass of one image is watched: of more there are more in the same calls.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    found: Counter[Convolution] = Counter()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(
            self, call: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if call is torch.ops.aten.convolution.default:
                x, weight, _, stride, padding, _, transposed = args[:7]
                shapes = (batch * x.shape[0], *x.shape[1:]), tuple(weight.shape)
                geometry = tuple(stride), tuple(padding)
                found[Convolution(*shapes, *geometry, transposed)] += 1
            return call(*args, **(kwargs or {}))

    with torch.no_grad(), Watch():
        model.train()(torch.zeros(1, 3, size, size))
    return found


def time_convolution(
    conv: Convolution, device: torch.device, precision: str, seconds: float
) -> Row:
    """Times the three products of a convolution: milliseconds, and TFLOP/s."""
    import torch

    from benchmarks.timing import count_flops
    from genesis_rl.inference.cuda import precision_of

    dtype = torch.bfloat16 if precision == "bf16" else torch.float32

    def noise(*shape: int) -> torch.Tensor:
        x = torch.randn(*shape, device=device, dtype=dtype)
        return x.contiguous(memory_format=torch.channels_last)

    x, weight = noise(*conv.image), noise(*conv.weight)
    geometry = (conv.stride, conv.padding, (1, 1), conv.transposed, conv.output_padding, 1)

    def forward() -> torch.Tensor:
        return torch.ops.aten.convolution(x, weight, None, *geometry)

    upstream = torch.randn_like(forward())

    def gradient(*wanted: bool) -> Callable[[], Any]:
        backward = torch.ops.aten.convolution_backward
        return lambda: backward(upstream, x, weight, None, *geometry, [*wanted, False])

    row: Row = {}
    flops = count_flops(forward)  # the same for all three
    parts = {
        "forward": forward,
        "of_image": gradient(True, False),
        "of_weight": gradient(False, True),
    }
    with precision_of(precision, benchmark=True):
        for name, call in parts.items():
            interval = time_replayed(call, device, seconds)
            row |= {f"{name}_ms": round(interval * 1e3, 4)}
            row |= {f"{name}_tflops": round(flops / interval / 1e12, 2)}
    return row


def tile_rows(args: Any, device: torch.device) -> Iterator[Row]:
    """Times the passes of our kernels for every setting of tiles, on the shapes of the masks."""
    import torch

    from pretrain.kernels import norm_gate_passes as passes

    decoded = args.batch * args.slots
    for shape in ((decoded, 64, 64, 64), (decoded, 32, 32, 64), (decoded, 16, 16, 128)):
        x = torch.randn(shape, device=device, dtype=torch.bfloat16)
        upstream = torch.randn(*shape[:3], shape[3] // 2, device=device, dtype=torch.bfloat16)
        half = upstream.numel() * upstream.element_size()  # bytes of half of x
        for tiles in TILES:
            for name, value in zip(_TILE_NAMES, tiles, strict=True):
                setattr(passes, name, value)
            mean, variance = passes.moments(x)
            parameters = (mean, variance, torch.ones_like(mean), torch.zeros_like(mean), 1e-5)
            calls: dict[str, tuple[int, Callable[[], Any]]] = {  # halves of x that are moved
                "moments": (2, partial(passes.moments, x)),
                "gate": (3, partial(passes.gate, x, *parameters)),
                "backward": (8, partial(passes.gate_backward, upstream, x, *parameters)),
            }
            row: Row = {"what": "tiles", "shape": str(shape), "tiles": tiles}
            for name, (halves, call) in calls.items():
                interval = time_replayed(call, device, args.seconds)
                row |= {f"{name}_ms": round(interval * 1e3, 4)}
                row |= {f"{name}_tb_per_s": round(halves * half / interval / 1e12, 3)}
            print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)
            yield row


def update_rows(args: Any, device: torch.device) -> Iterator[Row]:
    """Times what moves the model's weights: torch's Adam and average, then ours in one pass."""
    import torch

    from pretrain.assembly import build_model
    from pretrain.config import Config
    from pretrain.kernels import update
    from pretrain.update import Update

    rate = torch.tensor(1e-4, device=device)
    for average in (0.0, 0.999):
        for kind, parts in [(Update, None), *((update.OnePassUpdate, parts) for parts in PARTS)]:
            update._BLOCK, update._WARPS = parts or PARTS[0]
            model = build_model(Config(num_slots=args.slots)).to(device)
            mover = kind(
                model, list(model.parameters()), rate, betas=(0.9, 0.999), clip=0.0, average=average
            )
            for parameter in mover.parameters:
                parameter.grad = torch.randn_like(parameter)
            mover.decide(torch.tensor(True, device=device), mover.norms().norm())
            moved = sum(p.numel() for p in mover.parameters) * (28 + 8 * bool(average))  # bytes
            row: Row = {"what": "update", "kind": kind.__name__, "parts": parts, "average": average}
            for name, call, size in (
                ("norms", mover.norms, moved / (9 if average else 7)),
                ("apply", mover.apply, moved),
            ):
                interval = time_replayed(call, device, args.seconds)
                row |= {f"{name}_ms": round(interval * 1e3, 4)}
                row |= {f"{name}_tb_per_s": round(size / interval / 1e12, 3)}
            print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)
            yield row


def time_replayed(call: Callable[[], Any], device: torch.device, seconds: float) -> float:
    """Seconds of one call; on CUDA of many in one graph, so that launching them costs nothing."""
    import torch

    from benchmarks.timing import time_calls

    if device.type != "cuda":
        return time_calls(call, device, seconds=seconds, rounds=3).interval
    for _ in range(3):
        call()
    torch.cuda.synchronize(device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(_REPEATS):
            call()
    return time_calls(graph.replay, device, seconds=seconds, rounds=3).interval / _REPEATS


if __name__ == "__main__":
    run_cli(main)
