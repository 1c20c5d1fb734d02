"""Imports point one way: envs -> pretrain -> benchmarks, genesis_rl -> pretrain -> benchmarks."""

from pathlib import Path

import pytest

from benchmarks.reliability_files import PACKAGES, PLANTED, dangers, imported, sources

ROOT = Path(__file__).resolve().parent.parent
OWN = set(PACKAGES)

# What the files under a path may import beyond the standard library; the longest path counts.
ALLOWED = {
    "genesis_rl": {"genesis_rl", "torch", "numpy", "safetensors"},
    "genesis_rl/models": {"genesis_rl", "torch"},
    "genesis_rl/losses": {"torch"},
    "genesis_rl/inference": {"genesis_rl", "torch", "triton"},
    "genesis_rl/metrics.py": {"torch"},
    "genesis_rl/pictures.py": {"genesis_rl", "torch", "numpy", "cv2"},
    "genesis_rl/heads.py": {"torch"},
    "genesis_rl/extractors.py": {"genesis_rl", "torch", "gymnasium", "stable_baselines3"},
    "genesis_rl/wrappers": {"genesis_rl", "torch", "numpy", "cv2", "gymnasium"},
    "genesis_rl/wrappers/sb3.py": {
        "genesis_rl",
        "torch",
        "numpy",
        "gymnasium",
        "stable_baselines3",
    },
    "genesis_rl/wrappers/sb3_adapter.py": {"genesis_rl", "numpy", "gymnasium", "stable_baselines3"},
    "envs": {"envs", "torch", "numpy", "gymnasium", "cv2"},
    "envs/raycast": {"envs", "torch", "triton"},
    "envs/tower_physics.py": {"envs", "torch", "numpy", "mujoco"},
    "pretrain": {"pretrain", "genesis_rl", "envs", "torch", "numpy", "yaml", "tensorboard"}
    | {"tqdm", "cv2", "PIL", "google_crc32c", "gymnasium"},
    "pretrain/kernels": {"pretrain", "genesis_rl", "torch", "triton"},
    "benchmarks": OWN
    | {
        "torch",
        "numpy",
        "cv2",
        "gymnasium",
        "stable_baselines3",
        "matplotlib",
        "tqdm",
        "PIL",
        "sklearn",
        "safetensors",
    },
}

FILES = sources()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_imports_only_what_its_layer_may(path: Path):
    name = path.relative_to(ROOT).as_posix()
    layer = max((layer for layer in ALLOWED if name.startswith(layer)), key=len)
    assert imported(path) <= ALLOWED[layer], f"{name} is in the layer {layer}"


@pytest.mark.parametrize("code", PLANTED)
def test_the_search_finds_what_it_looks_for(tmp_path, code):
    (tmp_path / "x.py").write_text(f"def f():\n    {code}\n")
    assert len(dangers(tmp_path / "x.py")) == 1
    (tmp_path / "x.py").write_text("model.eval()\nyaml.safe_load(text)\nnumpy.load(file)\n")
    assert dangers(tmp_path / "x.py") == []


def test_nothing_that_is_read_can_run_code():
    found = {path.name: dangers(path) for path in FILES if dangers(path)}
    assert sorted(found) == ["inception.py", "released.py", "state.py"]
    for calls in found.values():
        assert [call for call in calls if "weights_only=True" not in call] == []
