"""Which rows the RL benchmark's arguments name, and whether they can be trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.rl_report import REPRESENTATIONS, slug

Row = dict[str, Any]


def plan(args: Any) -> list[tuple[Any, Path]]:
    """Returns the rows to train, and the folder of each."""
    from benchmarks.rl_playing import RowConfig, usual_variants

    names = args.representations
    if names is None:
        names = [name for name in REPRESENTATIONS if name != "vae" or args.vae_checkpoint]
    if "vae" in names and not args.vae_checkpoint:
        raise ValueError(
            "representation 'vae' needs --vae-checkpoint; train one with GENESIS's 5 x 80 numbers "
            "by python pretrain/run.py --config multi_dsprites_bd_vae --latents 400"
        )
    kinds = [
        (name, head)
        for name in names
        for head in args.heads
        if head == "mlp" or name not in ("cnn", "vae")  # which have nothing to attend to
    ]
    if not kinds:
        raise ValueError(f"{' and '.join(names)} can only be read by --heads mlp")
    transfer = {
        env_id: usual_variants(env_id, args.env_options) if args.transfer is None else args.transfer
        for env_id in args.env_id
    }
    checkpoints = {"vae": args.vae_checkpoint, "state": None, "cnn": None}
    configs = [
        RowConfig(
            env_id=env_id,
            representation=name,
            seed=seed,
            steps=args.steps,
            checkpoint=checkpoints.get(name, str(args.checkpoint)),
            latents=args.latents if "genesis" in name else "both",
            head=head,
            num_envs=args.envs,
            rollout=args.rollout,
            batch_size=args.batch_size,
            epochs=args.epochs,
            learning_rate=args.learning_rate,
            evaluate_every=args.evaluate_every,
            episodes=args.episodes,
            normalise=args.normalise,
            env_options=args.env_options or None,
            variants=transfer[env_id] or None,
        )
        for env_id in args.env_id
        for name, head in kinds
        for seed in args.seeds
    ]
    return [(config, args.out / slug(config.env_id) / folder_of(config)) for config in configs]


def check_encoders(configs: list[Any]) -> None:
    """Refuses encoders that are not what their row says; a VAE of another size is pointed out."""
    from genesis_rl.encoder import GenesisEncoder

    sizes = {}
    for config in configs:
        if config.checkpoint is None or config.representation in sizes:
            continue
        encoder = GenesisEncoder.from_checkpoint(config.checkpoint, device="cpu")
        sizes[config.representation] = encoder.num_slots * encoder.slot_dim
        if config.representation == "vae" and encoder.num_slots != 1:
            raise ValueError(
                f"--vae-checkpoint needs a bd_vae or dc_vae, but {config.checkpoint} has "
                f"{encoder.num_slots} slots"
            )
    if "vae" in sizes and sizes["vae"] != sizes.get("genesis", sizes["vae"]):
        print(f"note: vae shows {sizes['vae']} numbers, genesis {sizes['genesis']}")


def check_same(config: Any, row: Row | None, folder: Path) -> None:
    """Refuses to mix a finished row with others that were trained in another way."""
    from dataclasses import fields

    for field in fields(config):
        wanted = getattr(config, field.name)
        found = row.get(field.name, field.default) if row else wanted  # it may predate the option
        if found != wanted:
            raise ValueError(
                f"{folder} was trained with {field.name} = {found!r}, but {wanted!r} is asked for; "
                "repeat the same settings or choose another --out"
            )


def folder_of(config: Any) -> str:
    """The name of a row's folder within its task's."""
    head = "" if config.head == "mlp" else f"-{config.head}"
    return f"{config.representation}{head}-seed{config.seed}"
