"""Sections of RESULTS.md about speed, and about how true generated scenes are."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.cost_growth import ms_per_image, newest_rows, point_of
from benchmarks.probe_table import NAMES
from benchmarks.report_markdown import Line, commands, newest, origin, section

HOST = "encode, host memory to host memory"  # the others: on the device
# What (environments by their names), device, K, batch, unit, and the figures of others and bars, on
# an H200, on two CPU cores, or on one for a single environment.
SPEEDS: tuple[tuple[str, str, int, int, str, str], ...] = (
    ("encode", "cuda", 5, 1, "latency ms", "0.50 (bar)"),
    (HOST, "cuda", 5, 1, "latency ms", ""),
    (HOST, "cuda", 5, 64, "latency ms", "1.20 (bar)"),
    ("encode", "cuda", 5, 16, "frames/s", ""),
    ("encode", "cuda", 5, 64, "frames/s", ""),
    ("encode", "cuda", 5, 256, "frames/s", ""),
    ("encode", "cuda", 5, 1024, "frames/s", "40,000 (first bar); 85,000 (bar)"),
    ("encode", "cuda", 7, 1, "latency ms", "17.3 (reference, fp32); 0.25 (bar)"),
    (HOST, "cuda", 7, 1, "latency ms", "0.35 (bar)"),
    ("encode", "cuda", 7, 64, "frames/s", "1,854 (reference, TF32); 31,900 (prototype)"),
    (
        "encode",
        "cuda",
        7,
        1024,
        "frames/s",
        "3,587 (reference, TF32); 38,600 (prototype); 60,000 (bar)",
    ),
    ("encode", "cuda", 9, 1024, "frames/s", "45,000 (bar)"),
    ("encode", "cpu", 5, 1, "of floor", "100% (bar); 109% (prototype)"),
    ("encode", "cpu", 5, 4, "of floor", ""),
    ("encode", "cpu", 5, 16, "of floor", ""),
    ("wrapper", "cpu", 5, 1, "overhead", "10% (bar)"),
    ("SpriteGoal", "cpu", 0, 1, "frames/s", "1,500 (bar)"),
    ("RoomReach", "cpu", 0, 1, "frames/s", "100 (bar)"),
    ("StackTower", "cpu", 0, 1, "frames/s", "100 (bar)"),
    ("SpriteGoal, vectorised", "cpu", 0, 64, "frames/s", ""),
    ("SpriteGoal, vectorised", "cuda", 0, 1024, "frames/s", ""),
    ("SpriteGoal, vectorised", "cuda", 0, 4096, "frames/s", "500,000 (bar)"),
    ("RoomReach, vectorised", "cuda", 0, 1024, "frames/s", ""),
    ("RoomReach, vectorised", "cuda", 0, 4096, "frames/s", "60,000 (bar)"),
    ("SpriteGoal and encoder", "cuda", 5, 64, "frames/s", ""),
    ("SpriteGoal and encoder", "cuda", 5, 1024, "frames/s", "45,000 (bar)"),
    ("SpriteGoal and encoder", "cuda", 5, 4096, "frames/s", "45,000 (bar)"),
)
# Model, slots, batch: what others reach, and what was aimed at.
TRAINING: dict[tuple[str, int, int], str] = {
    ("genesis", 5, 32): "164 (prototype); 160 (first bar); 280 (bar)",
    ("genesis", 7, 32): "13.9 (reference, TF32); 125 (prototype); 220 (bar)",
    ("genesis", 7, 128): "41.5 (prototype)",
    ("genesis", 7, 256): "9,000 images/s at the best batch size (bar)",
    ("genesis", 9, 32): "10.3 (reference, TF32); 101 (prototype); 170 (bar)",
    ("monet", 7, 32): "14.1 (reference, TF32); 112 (bar)",
    ("genesis_s", 7, 32): "112 (bar)",
    ("bd_vae", 1, 32): "600 (bar)",
    ("dc_vae", 1, 32): "600 (bar)",
}
MODELS = {name: NAMES[name] for name in ("genesis", "genesis_s", "monet", "bd_vae", "dc_vae")}
KNOWN = "all that is known"  # of a recording whose textures nobody has given
LOADING_BAR = "20,000 (bar)"
READINGS = {"GQN, parsed": "50,000 (bar)", "GQN, decoded": "3,000 (bar)"}
# Device, stage, scenes, rays per pixel and side: images a second that were aimed at.
RENDERINGS: tuple[tuple[str, str, int, int, str], ...] = (
    ("cuda, fused", "stack", 1024, 1, "80,000 (bar); 51,000 (prototype)"),
    ("cuda, fused", "stack", 1024, 2, "30,000 (bar); 21,000 (prototype)"),
    ("cuda, fused", "room", 1024, 2, ""),
    ("cuda", "stack", 1024, 1, ""),
    ("cuda", "stack", 1024, 2, ""),
    ("cuda", "room", 1024, 2, ""),
    ("cpu", "stack", 64, 1, ""),
    ("cpu", "stack", 64, 2, "120 per core (bar)"),
    ("cpu", "room", 64, 2, ""),
)


def throughput_section(lines: Sequence[Line]) -> str:
    """Returns the table of speeds; the newest measurement of each kind."""
    measured: dict[tuple[str, str, int, int], tuple[Line, Line]] = {}
    for line in lines:
        for row in line["rows"]:
            slots = 0 if "env" in row["what"] else (line["slots"] or 5)
            measured[_what(row, line), row["device"], slots, row["batch"]] = (row, line)
    rows, used, missing = [], [], []
    for what, device, slots, batch, unit, anchor in SPEEDS:
        name = f"{what}, K={slots}" if slots else what
        found = measured.get((what, device, slots, batch))
        if found is None:
            missing.append(_throughput_command(what, device, slots, batch))
            rows.append([name, device, str(batch), "", "", unit, anchor, "", ""])
            continue
        row, line = found
        used.append(line)
        share = f"{row['of_floor']:.1%}" if "of_floor" in row else ""
        cells = [name, row["device"], str(batch), row["dtype"], _speed(row, unit), unit, anchor]
        rows.append([*cells, share, origin(line)])
    head = ["what", "device", "batch", "dtype", "here", "unit", "others, bars"]
    head += ["of arithmetic floor", "from"]
    return section("Speed", head, rows, commands(used, missing))


def _what(row: Line, line: Line) -> str:
    """Names what a row measured: a kind of work, or an environment."""
    what = str(row["what"])
    if what == "env" and row is next(r for r in line["rows"] if "env" in r["what"]):
        what = "single env"  # the first one; older lines call it as those that follow
    env_id = str(line.get("env_id", "GenesisRL/SpriteGoal-v0"))
    env = env_id.partition("/")[2].partition("-v")[0]
    names = {"single env": env, "env": f"{env}, vectorised", "loop": f"{env} and encoder"}
    names["encode host"] = HOST
    return names.get(what, what)


def _throughput_command(what: str, device: str, slots: int, batch: int) -> str:
    command = f"python -m benchmarks.throughput --device {device}"
    command += f" --slots {slots}" if slots not in (0, 5) else ""
    env, _, loop = what.partition(" and ")
    if env == what and slots:
        return f"{command} --what {what.partition(',')[0]}"
    kind = "loop" if loop else "env"
    env = env.partition(",")[0]
    return f"{command} --what {kind} --env-id GenesisRL/{env}-v0 --envs {batch}"


def training_section(lines: Sequence[Line]) -> str:
    """Returns how many steps a second training makes, with and without our own kernels."""
    measured: dict[tuple[int, str, int, int, bool], tuple[Line, Line]] = {}
    for line in lines:
        for row in line["rows"]:
            if row["device"] == "cuda":
                model = row.get("model", "genesis")  # older lines are of no other
                key = list(MODELS).index(model), model, row["slots"], row["batch"], row["fused"]
                measured[key] = (row, line)
    rows = [
        [
            f"{MODELS[model]}, K = {slots}, batch {batch}, {row['dtype']}",
            "own" if fused else "compiled",
            f"{row['per_second']:.1f}",
            f"{row['per_second'] * batch:,.0f}",
            TRAINING.get((model, slots, batch), ""),
            f"{row['of_floor']:.1%}",
            f"{row['preparation_s']:.0f}",
            origin(line),
        ]
        for (_, model, slots, batch, fused), (row, line) in sorted(measured.items())
    ]
    head = ["64 pixels", "kernels of norm and gate", "steps/s", "images/s"]
    head += ["others, bars", "of arithmetic floor", "s to prepare", "from"]
    command = "python -m benchmarks.training_speed --device cuda --slots {} --fused off on"
    kinds = {(model, slots) for _, model, slots, _, _ in measured}
    missing = [command.format(k) for k in (5, 7, 9) if ("genesis", k) not in kinds]
    others = [name for name in MODELS if not any(name == model for model, _ in kinds)]
    if others:
        models = " ".join(others)
        missing.append(
            f"python -m benchmarks.training_speed --device cuda --slots 7 --models {models}"
        )
    used = [line for _, line in measured.values()]
    return section("Training", head, rows, commands(used, missing))


def growth_section(lines: Sequence[Line]) -> str:
    """Returns what slots, batch and image size cost, one at a time: of each device, the newest."""
    of = {device: newest_rows(lines, device).values() for device in ("cuda", "cpu")}
    measured = [pair for found in of.values() for pair in found]
    rows = [[*map(str, point_of(row)), *_growth(row), origin(line)] for row, line in measured]
    head = ["what", "K", "images at a time", "pixels", "ms an image", "images/s"]
    head += ["GFLOP an image", "of arithmetic floor", "peak memory, MB", "from"]
    missing = [
        f"python -m benchmarks.cost_growth --device {device}" for device in of if not of[device]
    ]
    return section("Cost growth", head, rows, commands([line for _, line in measured], missing))


def _growth(row: Line) -> list[str]:
    if "left_out" in row:
        return [str(row["left_out"]), "", "", "", ""]
    ms = ms_per_image(row)
    cells = [f"{ms:.4g}", f"{1e3 / ms:,.1f}", f"{row['gflop']:.2f}"]
    return [*cells, f"{row['of_floor']:.1%}", f"{row['peak_memory_mb']:,.0f}"]


def loading_section(lines: Sequence[Line]) -> str:
    """Returns how fast a dataset gets to where it is trained on."""
    measured = newest(lines, "device", "dataset")
    rows = [
        [
            f"{line['dataset']}, {row['what']}",
            f"{row['images_per_s']:,.0f}",
            "" if "first" in row["what"] else LOADING_BAR,
            origin(line),
        ]
        for line in measured
        for row in line["rows"]
    ]
    head = ["to the device", "images/s", "aim", "from"]
    missing = [] if measured else ["python -m benchmarks.loading --dataset gqn"]
    return section("Loading", head, rows, commands(measured, missing))


def render_section(lines: Sequence[Line]) -> str:
    """Returns how many images of rendered scenes are drawn per second."""
    measured: dict[tuple[str, str, int, int], tuple[Line, Line]] = {}
    for line in lines:
        for row in line["rows"]:
            device = "cpu" if "per_cpu_second" in row else "cuda"
            device += ", fused" if row["fused"] else ""
            measured[device, row["stage"], row["scenes"], row["samples"]] = (row, line)
    rows, used, missing = [], [], []
    for device, stage, scenes, samples, anchor in RENDERINGS:
        cells = [stage, device, f"{scenes:,}", f"{samples} x {samples}"]
        found = measured.get((device, stage, scenes, samples))
        if found is None:
            flags = {"cpu": "cpu --threads 1", "cuda": "cuda --fused off"}.get(device, "cuda")
            missing.append(
                f"python -m benchmarks.render --stages stack room --scenes {scenes} "
                f"--device {flags}"
            )
            rows.append([*cells, "", "", anchor, ""])
            continue
        row, line = found
        used.append(line)
        own = f"{row['per_cpu_second']:,.0f}" if "per_cpu_second" in row else ""
        rows.append([*cells, f"{row['per_second']:,.0f}", own, anchor, origin(line)])
    head = ["scenes", "device", "at once", "rays per pixel", "images/s"]
    head += ["per second of CPU time", "others, bars", "from"]
    return section("Rendering", head, rows, commands(used, missing))


def scenes_section(
    labels: Sequence[Line],
    transfer: Sequence[Line],
    rooms: Sequence[Line],
    recordings: Sequence[Line],
) -> str:
    """Returns how true generated scenes are: to physics, and to genuine pictures."""
    rows, used = [], []
    for line in newest(labels, "shapes"):
        used.append(line)
        what = f"labels that MuJoCo confirms, {line['towers']:,} towers ({line['shapes']})"
        rows.append([what, f"{line['agreement']:.1%}", "98% (bar)", origin(line)])
    for line in newest(transfer, "textures")[-1:]:
        used.append(line)
        for name in ("generated", "genuine"):
            what = f"height named by a CNN that saw generated towers only: on {name} ones"
            rows.append([what, f"{line[name]['accuracy']:.1%}", "", origin(line)])
        rows.append(["ratio of the two", f"{line['ratio']:.1%}", "85% (bar)", origin(line)])
    for line in newest(rooms, "textures"):
        used.append(line)
        (drawn,) = [row for row in line["rows"] if row.get("frames") == "drawn"]
        what = f"published GQN frames drawn again, {line['textures']} textures: mean distance"
        rows.append([what, f"{drawn['error']:.1f} of 255 levels", "", origin(line)])
    for line in recordings[-1:]:
        used.append(line)
        kinds = {row["textures"]: row for row in line["rows"] if row["region"] == KNOWN}
        for surfaces, row in kinds.items():
            what = f"ShapeStacks' recording drawn again, surfaces from {surfaces}: "
            what += f"mean distance on {row['share']:.0%} of the 64 crop, both cameras"
            errors = " / ".join(f"{error:.2f}" for error in row["errors"])
            rows.append([what, f"{errors} of 255 levels", "3.0 (bar)", origin(line)])
    missing = [] if labels else ["python -m benchmarks.tower_labels --towers 1000"]
    if not transfer:
        missing.append(
            "python -m benchmarks.tower_transfer --genuine shapestacks_real_2000_64px.npz"
        )
    if not rooms:
        missing.append("python -m benchmarks.gqn_sheet")
    if not recordings:
        missing.append("python -m benchmarks.shapestacks_recordings")
    head = ["what", "here", "aim", "from"]
    return section("Generated scenes", head, rows, commands(used, missing))


def identity_section(lines: Sequence[Line]) -> str:
    """Returns how often objects change slots, without and with alignment."""
    measured = newest(lines, "checkpoint", "objects", "samples")
    rows = []
    for line in measured:
        samples = ", samples" if line["samples"] else ""
        for row in line["rows"]:
            if line["samples"] and row["encoder"] == "exact":  # it has none
                continue
            what = f"{row['encoder']}{samples}, {line['objects']} objects {row['counted']}"
            rates = ("unaligned", "aligned", "best")
            rows.append([what, *(f"{row[name]:.2%}" for name in rates), origin(line)])
    head = ["frames with an identity switch", "unaligned", "aligned (bar 1% and a tenth)"]
    head += ["least possible", "from"]
    missing = [] if measured else ["python -m benchmarks.slot_identity"]
    return section("Slots over time", head, rows, commands(measured, missing))


def metrics_section(lines: Sequence[Line]) -> str:
    """Returns how much faster the batched ARI is than scikit-learn's."""
    measured = newest(lines, "batch", "device")
    rows = [
        [
            f"{line['batch']} images",
            f"{line['scikit_learn_ms']:.1f}",
            f"{line['ours_ms']:.2f}",
            f"{line['speedup']:.1f}",
            "10 (bar)",
            origin(line),
        ]
        for line in measured
    ]
    head = ["ARI-FG", "scikit-learn, ms", "here, ms", "times faster", "aim", "from"]
    missing = [] if measured else ["python -m benchmarks.metrics_speed --batch 256"]
    return section("Metrics", head, rows, commands(measured, missing))


def reading_section(lines: Sequence[Line]) -> str:
    """Returns how much comes out of dataset files per second of CPU time."""
    measured = newest(lines, "device", "scenes")
    rows = [
        [
            row["what"],
            f"{row['per_cpu_second']:,.0f} {row['unit']}",
            f"{row['median']:,.0f}",
            READINGS.get(row["what"], ""),
            origin(line),
        ]
        for line in measured
        for row in line["rows"]
    ]
    head = ["files", "per second of CPU time, best", "median", "aim", "from"]
    missing = [] if measured else ["python -m benchmarks.reading --threads 1"]
    return section("Reading", head, rows, commands(measured, missing))


def _speed(row: Line, unit: str) -> str:
    if unit == "latency ms":
        return f"{row['latency_ms']:.3f}"
    if unit == "of floor":
        return f"{row['of_floor']:.0%} ({row['per_second']:.1f} frames/s)"
    if unit == "overhead":
        return f"{row['overhead']:.1%}"
    return f"{row['per_second']:,.0f}"
