"""Checks every file of a dataset: hashes, checksums, pictures, masks, lists and counts.

    python -m pretrain.data verify DIR

Works for generated folders, whose marker knows every file, and for genuine ones, as far as they can
be checked by themselves.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from pretrain.data.cache import CachedImages
from pretrain.data.dm_multi_dsprites import VARIANTS, parse_records
from pretrain.data.dsprites_files import ProcessedFiles
from pretrain.data.found import Found, datasets_in
from pretrain.data.gqn import NATIVE as GQN_SIZES
from pretrain.data.manifest import MARKER, find_marker, hash_file, read_marker
from pretrain.data.pixels import decode_rgb
from pretrain.data.scenes import parse_scene
from pretrain.data.shapestacks import (
    LISTS,
    MASK_NAME,
    NATIVE,
    RGB_NAME,
    VIEWS,
    read_list,
    read_mask,
)
from pretrain.data.tfrecord import RecordError, read_records
from pretrain.machine import available_cores


class Check(NamedTuple):
    """One file and what to do with it.

    Attributes:
        path: The file, or folder.
        work: Raises `ValueError` or `OSError` if it is broken; returns what was checked, by name.
    """

    path: Path
    work: Callable[[Path], dict[str, int]]


class Verdict(NamedTuple):
    """What a check of a folder found.

    Attributes:
        broken: A line for every broken file, which begins with its path.
        counts: How much of what was checked.
    """

    broken: list[str]
    counts: dict[str, int]


def verify(folder: Path, progress: bool = True) -> Verdict:
    """Checks all datasets in a folder.

    Raises:
        FileNotFoundError: There are none.
    """
    folder = folder.expanduser()
    marker = find_marker(folder)
    checks = list(_marker_checks(marker)) if marker else []
    try:
        found = datasets_in(folder)
    except FileNotFoundError:
        if not checks:
            raise
        found = []  # all of it is missing, file by file
    for dataset in found:
        checks += _CHECKS[dataset.name.partition(":")[0]](dataset)
    return _run(list(dict.fromkeys(checks)), progress)


def run(folder: str) -> int:
    """Checks a folder, prints a line for each broken file and a last one; returns 1 if any is."""
    broken, counts = verify(Path(folder), progress=sys.stderr.isatty())
    for line in broken:
        print(f"broken: {line}")
    checked = ", ".join(f"{number:,} {what}" for what, number in sorted(counts.items()))
    print(f"{folder}: {len(broken) or 'nothing'} broken; checked {checked or 'nothing'}")
    if broken and find_marker(Path(folder).expanduser()):
        print("delete the broken files and run the command again that generated them")
    return 1 if broken else 0


def _run(checks: list[Check], progress: bool) -> Verdict:
    """Runs checks in threads, a bounded number of them ahead; results keep their order."""
    broken: list[tuple[int, str]] = []
    counts: dict[str, int] = {}
    cores = min(available_cores(), 32)
    with (
        ThreadPoolExecutor(cores) as pool,
        tqdm(total=len(checks), desc="checking", unit=" files", disable=not progress) as bar,
    ):
        waiting, running = iter(enumerate(checks)), dict[Future[Any], tuple[int, Check]]()
        while True:
            for item in islice(waiting, 4 * cores - len(running)):
                running[pool.submit(item[1].work, item[1].path)] = item
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                number, check = running.pop(future)
                bar.update()
                try:
                    for what, count in future.result().items():
                        counts[what] = counts.get(what, 0) + count
                except (ValueError, OSError) as error:
                    broken.append((number, _named(check.path, error)))
    return Verdict(list(dict.fromkeys(line for _, line in sorted(broken))), counts)


def _named(path: Path, error: Exception) -> str:
    """An error in one line that begins with the file."""
    words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    line = re.sub(r"\s+", " ", words)
    return line if line.startswith(str(path)) else f"{path}: {line}"


# --- what the marker says -----------------------------------------------------------------------


def _marker_checks(path: Path) -> Iterator[Check]:
    marker = read_marker(path)
    if not marker["complete"]:
        yield Check(path, _fail("generating was interrupted; run the command again that began it"))
    for name, entry in marker["files"].items():
        if Path(name).is_absolute() or ".." in Path(name).parts:
            yield Check(path, _fail(f"it names {name!r}, which is outside of its folder"))
        elif "sha256" in entry:
            yield Check(path.parent / name, _hash_check(entry["sha256"]))
    pattern = re.compile(r".*\.(tfrecord|png|map)|(train|eval|test)\.txt")
    for file in sorted(path.parent.rglob("*")) if marker["complete"] else ():
        if pattern.fullmatch(file.name) and _relative(file, path) not in marker["files"]:
            yield Check(file, _fail(f"{MARKER} does not know it; readers would take it for data"))


def _relative(file: Path, marker: Path) -> str:
    return file.relative_to(marker.parent).as_posix()


def _hash_check(expected: str) -> Callable[[Path], dict[str, int]]:
    def check(path: Path) -> dict[str, int]:
        found = hash_file(path)
        if found is None:
            raise ValueError(f"it is missing, but {MARKER} names it")
        if found != expected:
            raise ValueError(f"its SHA-256 differs from {MARKER}'s")
        return {"hashes": 1}

    return check


def _fail(text: str) -> Callable[[Path], dict[str, int]]:
    def check(_: Path) -> dict[str, int]:
        raise ValueError(text)

    return check


# --- what the files say themselves --------------------------------------------------------------


def _gqn_checks(dataset: Found) -> Iterator[Check]:
    size = GQN_SIZES.get(dataset.name.partition(":")[2])

    def check(path: Path) -> dict[str, int]:
        scenes = frames = 0
        for record in read_records(path):
            try:
                spans, _ = parse_scene(record.payload)
                for start, stop in spans:
                    decode_rgb(record.payload[start:stop], size)
            except ValueError as error:
                raise RecordError(path, record.number, record.offset, str(error)) from error
            scenes, frames = scenes + 1, frames + len(spans)
        return {"scenes": scenes, "frames": frames}

    for split in ("train", "test"):
        for path in sorted((dataset.folder / split).glob("*.tfrecord")):
            if "gstmp" not in path.name:
                yield Check(path, check)


def _shapestacks_checks(dataset: Found) -> Iterator[Check]:
    folder, variant = dataset.folder, dataset.name.partition(":")[2]
    lists: dict[str, list[str]] = {}
    for split, name in LISTS.items():
        path = folder / "splits" / variant / name
        try:
            lists[split] = read_list(folder, variant, split)
        except (ValueError, OSError) as error:
            yield Check(path, _fail(str(error)))
            continue
        yield Check(path, partial(_check_list, folder, lists[split]))
    listed = [name for names in lists.values() for name in names]
    if len(set(listed)) < len(listed):
        twice = next(name for name in listed if listed.count(name) > 1)
        yield Check(folder / "splits" / variant, _fail(f"{twice} is listed more than once"))
    for place, pattern, work in (
        ("recordings", RGB_NAME, _check_rgb),
        ("recordings", MASK_NAME, _check_mask),
        ("iseg", MASK_NAME, _check_mask),
    ):
        for scenario in sorted(set(listed)) if (folder / place).is_dir() else ():
            for path in sorted((folder / place / scenario).glob("*")):
                if pattern.fullmatch(path.name):
                    yield Check(path, work)


def _check_list(folder: Path, scenarios: list[str], _: Path) -> dict[str, int]:
    """Every scenario of a list needs 16 images, and as many masks if any has one."""
    for what, places, pattern in (
        ("images", ["recordings"], RGB_NAME),
        ("masks", ["iseg", "recordings"], MASK_NAME),
    ):
        views = {}
        for name in scenarios:
            files = [path.name for place in places for path in (folder / place / name).glob("*")]
            views[name] = {match[1] for file in files if (match := pattern.fullmatch(file))}
        lacking = [name for name in scenarios if len(views[name]) < VIEWS]
        if lacking and (what == "images" or any(views.values())):
            raise ValueError(
                f"{len(lacking)} of {len(scenarios)} entries do not have all {VIEWS} {what}, the "
                f"first is {lacking[0]}"
            )
    return {"list entries": len(scenarios)}


def _check_rgb(path: Path) -> dict[str, int]:
    decode_rgb(path.read_bytes(), NATIVE)
    return {"images": 1}


def _check_mask(path: Path) -> dict[str, int]:
    read_mask(path.read_bytes())
    return {"masks": 1}


def _dm_checks(dataset: Found) -> Iterator[Check]:
    variant = dataset.name.partition(":")[2]

    def check(path: Path) -> dict[str, int]:
        examples = 0
        for record in read_records(path):
            parse_records(path, [record], VARIANTS[variant])
            examples += 1
        return {"examples": examples}

    if variant in VARIANTS:
        yield Check(dataset.folder / f"multi_dsprites_{variant}.tfrecords", check)


def _compact_checks(dataset: Found) -> Iterator[Check]:
    def check(folder: Path) -> dict[str, int]:
        kept = CachedImages(folder)
        kept.verify()
        return {"images": len(kept)}

    yield Check(dataset.folder, check)


def _processed_checks(dataset: Found) -> Iterator[Check]:
    def check(path: Path) -> dict[str, int]:
        files = ProcessedFiles(path, path.with_name(path.name.replace("_images_", "_masks_")))
        for rows in torch.arange(len(files)).split(1024):
            files.batch(rows)  # checks what it reads
        return {"images": len(files)}

    yield from (Check(path, check) for path in sorted(dataset.folder.glob("*_images_rand4*.npy")))


_CHECKS: dict[str, Callable[[Found], Iterator[Check]]] = {
    "gqn": _gqn_checks,
    "shapestacks": _shapestacks_checks,
    "dm_multi_dsprites": _dm_checks,
    "compact": _compact_checks,
    "multi_dsprites": _processed_checks,
}
