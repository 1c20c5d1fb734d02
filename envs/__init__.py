"""Environments made of scenes, sprites on a plane or solids in a room: images, masks or factors.

Importing this package registers the ids, so that both of these work:

    import envs; gym.make("GenesisRL/SpriteGoal-v0")
    gym.make("envs:GenesisRL/SpriteGoal-v0")
"""

import gymnasium as gym

for _task, _module in (
    ("SpriteGoal", "sprite_goal"),
    ("SpritePush", "sprite_push"),
    ("SpriteObjectComparison", "sprite_comparison"),
    ("SpritePropertyComparison", "sprite_comparison"),
    ("RoomReach", "room_reach"),
    ("StackTower", "stack_tower"),
):
    gym.register(
        id=f"GenesisRL/{_task}-v0",
        entry_point=f"envs.{_module}:{_task}Env",
        vector_entry_point=f"envs.{_module}:{_task}VectorEnv",
        max_episode_steps=100,
    )
