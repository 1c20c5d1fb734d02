"""A small real recipe for tests of generating: GQN files of noise, and a list of them."""

import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pretrain.data.generate import Written, put_file
from pretrain.data.gqn_files import file_name, write_scenes


@dataclass(frozen=True)
class Noise:
    """`files` of `scenes` each, the last one for testing. Every unit that is written is logged.

    Args:
        log: A file outside of the dataset, that gets a line for each unit.
        slow: The unit that waits for a minute once its file is there.
        broken: The unit that raises, or gets the signal `fatal` in its process.
    """

    log: Path
    files: int = 5
    scenes: int = 3
    seed: int = 0
    slow: int | None = None
    broken: int | None = None
    fatal: int | None = None
    name: str = field(default="gqn", init=False, repr=False)
    bytes_per_image: int = field(default=4000, init=False, repr=False)

    @property
    def images(self):
        return self.files * self.scenes * 10

    def settings(self):
        sizes = {"files": self.files, "scenes": self.scenes}
        return {"seed": self.seed, "textures": "no", **sizes}

    def units(self):
        return self.files

    def write(self, unit, root, device):
        if unit == self.broken:
            if self.fatal:
                signal.raise_signal(self.fatal)
            raise ValueError(f"unit {unit} cannot be made.")
        test = unit == self.files - 1
        name = file_name(1, 1) if test else file_name(unit + 1, self.files - 1)
        path = f"rooms_ring_camera/{'test' if test else 'train'}/{name}"
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        done = write_scenes(root / path, self._scenes(unit))
        with self.log.open("a") as log:
            log.write(f"{unit}\n")
        if unit == self.slow:
            time.sleep(60)
        return {path: Written(done.sha256, done.bytes, done.records, note=[unit])}

    def finish(self, root, files):
        lines = [f"{name} {written.note[0]}\n" for name, written in files.items()]
        return {"list.txt": put_file(root / "list.txt", "".join(lines).encode())}

    def _scenes(self, unit):
        rng = np.random.default_rng((self.seed, unit))
        for _ in range(self.scenes):
            coarse = rng.integers(0, 256, (10, 8, 8, 3), dtype=np.uint8)
            yield coarse.repeat(8, axis=1).repeat(8, axis=2), np.zeros((10, 5))
