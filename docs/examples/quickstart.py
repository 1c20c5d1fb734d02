# %% [markdown]
# # Quickstart: from frames to slots to an agent
#
# Run it as a script, or cell by cell as a notebook (VS Code, PyCharm and Jupytext know `# %%`).
# A minute on a CPU, no data, no network:
#
#     python docs/examples/quickstart.py

"""The quickstart of the README, step by step; see the cells."""

# %% One environment. Each frame becomes K = 5 slots of 64 + 16 numbers: where, and what.
from pathlib import Path

import cv2
import gymnasium as gym
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from genesis_rl import GenesisObsWrapper, GenesisVecEnvWrapper, GenesisVectorObsWrapper

env = GenesisObsWrapper(gym.make("envs:GenesisRL/SpriteGoal-v0"), layout="slots")
slots, info = env.reset(seed=0)
print("one observation", slots.shape, "in", env.observation_space)

# %% What the encoder sees: frame, reconstruction, frame tinted by slot, masks, components.
out = Path("runs/quickstart")
out.mkdir(parents=True, exist_ok=True)
cv2.imwrite(str(out / "slots.png"), env.render_slots()[..., ::-1])
print("its slots", out / "slots.png")
env.close()

# %% Many environments of Gymnasium: one forward pass encodes all of them.
envs = GenesisVectorObsWrapper(gym.make_vec("envs:GenesisRL/SpriteGoal-v0", num_envs=8))
batch, infos = envs.reset(seed=0)
print("a batch", batch.shape)
envs.close()

# %% Many environments of Stable-Baselines3, and an agent. The policy stays on the CPU, where an
# MLP belongs; the encoder takes the GPU if there is one.
venv = GenesisVecEnvWrapper(make_vec_env("envs:GenesisRL/SpriteGoal-v0", n_envs=8))
agent = PPO("MlpPolicy", venv, n_steps=128, batch_size=128, seed=0, device="cpu")
before, _ = evaluate_policy(agent, venv, n_eval_episodes=50, deterministic=False)
agent.learn(8_192)
after, _ = evaluate_policy(agent, venv, n_eval_episodes=50, deterministic=False)
print(f"mean return of 50 episodes: {before:.2f} before training, {after:.2f} after")

# %% Keep it. `PPO.load` runs code from the archive: load only agents that you trust.
agent.save(out / "agent.zip")
print("the agent", out / "agent.zip")
venv.close()
