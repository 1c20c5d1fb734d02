"""Files that are damaged on purpose."""

import random
from collections.abc import Iterator


def corruptions(data: bytes, count: int, burst: int = 8, seed: int = 1) -> Iterator[bytes]:
    """Copies of the data, each with a flipped bit, cut short, or with random bytes in a row."""
    rng = random.Random(seed)
    for trial in range(count):
        bad = bytearray(data)
        if trial % 3 == 0:
            bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        elif trial % 3 == 1:
            del bad[rng.randrange(len(bad)) :]
        else:
            start = rng.randrange(len(bad) - burst)
            bad[start : start + burst] = rng.randbytes(burst)
        yield bytes(bad)
