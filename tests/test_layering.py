"""Imports point one way: envs -> pretrain -> benchmarks, genesis_rl -> pretrain -> benchmarks."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OWN = {"genesis_rl", "envs", "pretrain", "benchmarks"}

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

CALLS = {"eval", "exec", "yaml.load", "torch.load", "torch.jit.load", "torch.hub.load"}

FILES = sorted(p for name in OWN for p in (ROOT / name).rglob("*.py"))


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_imports_only_what_its_layer_may(path: Path):
    name = path.relative_to(ROOT).as_posix()
    layer = max((layer for layer in ALLOWED if name.startswith(layer)), key=len)
    assert imported(path) <= ALLOWED[layer], f"{name} is in the layer {layer}"


def dangers(path: Path) -> list[str]:
    """Calls that can run code found in data, or write where an archive says."""
    found = [f"import {name}" for name in imported(path) & {"cloudpickle", "joblib", "dill"}]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name for alias in node.names} | {getattr(node, "module", "")}
            found += [f"import {name}" for name in names & {"pickle", "marshal", "shelve"}]
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        pickled = any(
            k.arg == "allow_pickle" and ast.unparse(k.value) != "False" for k in node.keywords
        )
        if called in CALLS or pickled:
            found.append(ast.unparse(node))
        if called.endswith((".extractall", ".extract")):
            found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import loads",
        "import cloudpickle",
        "eval(text)",
        "exec(text)",
        "yaml.load(text)",
        "torch.load(file)",
        "torch.jit.load(file)",
        "numpy.load(file, allow_pickle=True)",
        "archive.extractall(folder)",
    ],
)
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
