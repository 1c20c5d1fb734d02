"""Turns a run into a checkpoint for others, small if wanted, and says what that costs.

    python -m pretrain.export runs/sprites genesis_rl/weights/multi_dsprites --compact

The last line is JSON: the folder, its bytes, and the largest and the root-mean-square deviation of
any latent between the run's model and what was written, over validation images.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genesis_rl.checkpoint import load_checkpoint, read_config, save_checkpoint
from pretrain.assembly import load_split
from pretrain.command_line import Parser, is_mistake, output_folder, positive_int, words
from pretrain.config import Config, build
from pretrain.evaluation import to_float
from pretrain.state import Stop, load_state
from pretrain.strict_yaml import load_yaml


def main(arguments: list[str] | None = None) -> int:
    """Exports, and returns the exit status: 2 for a mistake in the arguments or a damaged model."""
    parser = Parser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("run", type=Path, help="a run folder")
    parser.add_argument("out", type=output_folder, help="where to write the checkpoint")
    parser.add_argument("--compact", action="store_true", help="int8 and float16: 15 MB, not 50 MB")
    parser.add_argument("--raw", action="store_true", help="the last weights, not their average")
    parser.add_argument("--images", type=positive_int, default=320, help="images to compare on")
    flags = parser.parse_args(arguments)
    try:
        if not (flags.run / "config.yaml").is_file():
            raise ValueError(
                f"{flags.run} holds no run: it has no config.yaml; name the folder that was --out "
                "of pretrain/run.py"
            )
        config = build(load_yaml(flags.run / "config.yaml"))
        options = {"compact": flags.compact, "raw": flags.raw, "images": flags.images}
        result = export(flags.run, flags.out, config, **options)
    except Stop as error:
        print(f"error: {error}", file=sys.stderr)
        return error.status
    except (ValueError, OSError) as error:
        print(f"error: {words(error)}", file=sys.stderr)
        return 2 if is_mistake(error) else 1
    print(json.dumps(result))
    return 0


def export(
    run: Path, out: Path, config: Config, *, compact: bool, raw: bool = False, images: int = 320
) -> dict[str, Any]:
    """Writes the run's newest model to `out` and measures how far its latents have moved.

    Args:
        run: A run folder.
        out: Where the checkpoint goes.
        config: The run's.
        compact: Whether to round the weights.
        raw: Whether to take the weights of the last step, where the run averages them.
        images: How many of the validation images to compare latents on.

    Raises:
        FileNotFoundError: Raw weights are wanted, and there is no sound state of training.
    """
    model = load_checkpoint(run / "model")
    metadata = read_config(run / "model")["metadata"]
    if raw:
        say = partial(print, file=sys.stderr)
        found = load_state(run, config=config.fingerprint(), say=say)
        if found is None:
            raise FileNotFoundError(f"{run} holds no sound state, which is where raw weights are.")
        metadata["steps"], state = found
        metadata["weight_average"] = 0.0
        model.load_state_dict(state["engine"]["model"])
    data = load_split(config, "val", images, torch.device("cpu"))
    save_checkpoint(out, model, metadata=metadata, compact=compact)
    before, after = _latents(model, data.images), _latents(load_checkpoint(out), data.images)
    gap = (after - before).double()
    return {
        "folder": str(out),
        "bytes": sum(file.stat().st_size for file in out.iterdir()),
        "images": images,
        "largest_latent_deviation": gap.abs().max().item(),
        "rms_latent_deviation": gap.square().mean().sqrt().item(),
        "rms_latent": before.double().square().mean().sqrt().item(),
    }


@torch.no_grad()
def _latents(model: Any, images: Tensor) -> Tensor:
    return torch.cat([model.encode(to_float(part)) for part in images.split(32)])


if __name__ == "__main__":
    sys.exit(main())
