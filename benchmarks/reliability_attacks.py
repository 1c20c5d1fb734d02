"""A row of the scoreboard: files that try to run code, to write elsewhere, or to take all memory.

Each is read by the function that users call, in a process of its own that has read a sound file of
the same kind just before, so that what memory grows by is what the attack took.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.reliability_corpus import attacks, hostile_pt
from benchmarks.reliability_runs import Outcome, Tick, clean_server

MOST_MEMORY = 64 << 20  # bytes more than a sound file takes
_LISTED = [Path("/tmp/genesis-out"), Path("/out")]  # where archives of absolute names would write


def attacked(count: int, folder: Path, tick: Tick) -> Outcome:
    """Reads each attack file, and counts what ran, what was written elsewhere, and memory."""
    corpus = attacks()[:count]
    ran, escaped, large, accepted = [], [], [], []
    most = slowest = 0.0
    for number, attack in enumerate(corpus):
        place = folder / str(number)
        (place / "target").mkdir(parents=True)
        (place / "secret").write_text("secret")
        marker = place / "executed"
        attack.sound(place / "sound")
        attack.hostile(place / "attack", marker)
        before = _outside(place)
        found = _read_in_a_process(attack.name, place)
        slowest = max(slowest, found["seconds"])
        if marker.exists():
            ran.append(attack.name)
            marker.unlink()
        else:  # of what runs code anything can be said
            most = max(most, found["bytes"])
            large += [attack.name] * (found["bytes"] > MOST_MEMORY)
            accepted += [attack.name] * found["accepted"]
        escaped += [attack.name] * (_outside(place) != before)
        tick()
    bad = {*ran, *escaped, *large, *accepted}
    facts = {
        "executions": ran,
        "escapes": escaped,
        "beyond_64_MB": large,
        "read_without_an_error": accepted,
        "peak_memory_at_most": f"+{most / 2**20:.1f} MB",
        "seconds_at_most": round(slowest, 2),
        "files": [attack.name for attack in corpus],
    }
    void = "" if _bait_works(folder) else "the bait does not work"
    void = void if _memory_is_seen() else "memory cannot be measured here"
    return Outcome(len(corpus), len(corpus) - len(bad), f"{len(ran)} executions", void, facts)


def _read_in_a_process(name: str, place: Path) -> dict[str, Any]:
    """Returns seconds, growth of the peak memory, and whether the attack was read as if sound."""
    process = clean_server().Process(target=_attempt, args=(name, str(place)))
    process.start()
    process.join(300)
    if process.is_alive():
        process.kill()
        process.join()
    report = place / "report.json"
    if not report.exists():  # it has died of it
        return {"seconds": 300.0, "bytes": 1 << 40, "accepted": True}
    found: dict[str, Any] = json.loads(report.read_text())
    report.unlink()
    return found


def _attempt(name: str, folder: str) -> None:
    place = Path(folder)
    attack = next(attack for attack in attacks() if attack.name == name)
    attack.read(place / "sound")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, began = _memory("VmRSS"), time.monotonic()
    accepted = True
    try:
        attack.read(place / "attack")
    except Exception as error:
        accepted = not isinstance(error, ValueError)  # which is how this project refuses
    seconds = time.monotonic() - began
    found = {"seconds": seconds, "bytes": _memory("VmHWM") - before, "accepted": accepted}
    (place / "report.json").write_text(json.dumps(found))


def _memory(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) << 10
    return 0


def _memory_is_seen() -> bool:
    """Whether the gauge notices twice the memory that is too much."""
    Path("/proc/self/clear_refs").write_text("5")
    before = _memory("VmRSS")
    taken = b"x" * (2 * MOST_MEMORY)
    return _memory("VmHWM") - before > MOST_MEMORY and len(taken) > 0


def _outside(place: Path) -> list[tuple[str, bytes]]:
    """All that lies beside the folder that an archive is unpacked into."""
    left = ("target", "report.json", "executed")
    beside = [path for path in sorted(place.iterdir()) if path.name not in left]
    found = [(path.name, path.read_bytes() if path.is_file() else b"") for path in beside]
    return found + [(str(path), b"") for path in _LISTED if path.exists()]


def _bait_works(folder: Path) -> bool:
    """Whether the pickle runs where somebody trusts it."""
    path, marker = folder / "bait.pt", folder / "executed"
    hostile_pt(path, marker)
    code = f"import torch; torch.load({str(path)!r}, weights_only=False)"
    subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
    return marker.exists()
