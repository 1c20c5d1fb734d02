"""Environments made of scenes: sprites on a plane, drawn as images, masks or factors.

Importing this package registers the ids, so that both of these work:

    import envs; gym.make("GenesisRL/SpriteGoal-v0")
    gym.make("envs:GenesisRL/SpriteGoal-v0")
"""

import gymnasium as gym

gym.register(
    id="GenesisRL/SpriteGoal-v0",
    entry_point="envs.sprites:SpriteGoalEnv",
    vector_entry_point="envs.sprites:SpriteGoalVectorEnv",
    max_episode_steps=100,
)
