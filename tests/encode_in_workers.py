"""Encodes in the workers of an AsyncVectorEnv and prints what came of it; run by the contract test.

python encode_in_workers.py CHECKPOINT DEVICE CONTEXT clean|used
"""

import sys

import torch
from gymnasium.vector import AsyncVectorEnv

from genesis_rl import GenesisEncoder, GenesisObsWrapper
from toys import Scribble

CHECKPOINT, DEVICE, CONTEXT, HISTORY = sys.argv[1:]


def make():
    return GenesisObsWrapper(Scribble(length=3), CHECKPOINT, device=DEVICE)


def main():
    torch.set_num_threads(2)  # so that a child that waits for threads it does not have would hang
    if HISTORY == "used":
        encoder = GenesisEncoder.from_checkpoint(CHECKPOINT, device=DEVICE)
        encoder.encode(torch.zeros(64, 3, 32, 32))
    envs = AsyncVectorEnv([make] * 2, context=CONTEXT)
    try:
        latents, _ = envs.reset(seed=0)
        envs.step([0, 0])
    except Exception as error:
        envs.close(terminate=True)
        print(f"raised {type(error).__name__}: {error}")
        return
    print(f"works: {latents.shape}")
    envs.close()


if __name__ == "__main__":
    main()
