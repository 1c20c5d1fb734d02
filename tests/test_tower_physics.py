"""Towers in MuJoCo: what stands, what falls, and that it depends on nothing else."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks import tower_labels
from benchmarks.tower_labels import agreement
from envs.tower_blocks import CUBOID, CYLINDER, LYING, SPHERE
from envs.towers import draw_towers

pytest.importorskip("mujoco")

from envs.tower_physics import fall_times, reshape_blocks, stays, tower_model


def two_cubes(overhang=0.0, top=CUBOID, bottom=CUBOID):
    """Towers of two unit blocks, the upper one off the lower one's centre in x."""
    towers = draw_towers(torch.arange(200))
    towers = towers[(towers.height == 2).nonzero()[:1, 0]]
    kind = torch.tensor([[bottom, top, -1, -1, -1, -1]])
    size = torch.zeros(1, 6, 3, dtype=torch.float64)
    size[:, :2] = 0.5
    position = torch.zeros(1, 6, 3, dtype=torch.float64)
    position[0, 0, 2], position[0, 1, 2], position[0, 1, 0] = 0.5, 1.5, overhang
    return replace(
        towers, kind=kind, size=size, position=position, yaw=torch.zeros_like(size[..., 0])
    )


def test_a_cube_stands_until_its_centre_is_over_the_edge():
    assert stays(two_cubes(overhang=0.44)).item()
    assert not stays(two_cubes(overhang=0.56)).item()


def test_what_stands_on_a_ball_falls_and_a_ball_that_lies_on_a_cube_stays():
    assert not stays(two_cubes(bottom=SPHERE)).item()
    assert not stays(two_cubes(bottom=LYING)).item()
    assert stays(two_cubes(top=SPHERE)).item()


def test_a_fall_is_noticed_early():
    seconds = fall_times(two_cubes(overhang=0.7)).item()
    assert 0.1 <= seconds <= 1
    assert fall_times(two_cubes()).item() == math.inf


def test_the_model_has_the_towers_blocks():
    towers = draw_towers(torch.arange(4), seed=2)
    for row in range(4):
        model = tower_model(towers, row)
        height = int(towers.height[row])
        assert model.nbody == model.ngeom == height + 1
        assert model.nv == 6 * height
        position = torch.from_numpy(model.body_pos[1:])
        assert torch.allclose(position, towers.position[row, :height])


def test_blocks_are_reshaped_as_if_they_had_been_compiled():
    mujoco = pytest.importorskip("mujoco")
    towers = draw_towers(torch.arange(40))
    row = int((towers.height == 6).nonzero()[0])
    kinds = [CUBOID, CYLINDER, LYING, SPHERE, CUBOID, LYING]
    towers.kind[row] = torch.tensor(kinds)
    towers.size[row, 1:4] = torch.tensor([[0.3, 0.3, 0.4], [0.5, 0.5, 0.2], [0.4, 0.4, 0.4]])
    towers.size[row, 5, 1] = towers.size[row, 5, 0]
    compiled = tower_model(towers, row)
    model = tower_model(replace(towers, kind=torch.zeros_like(towers.kind)), row)
    sizes, rotations = towers.size[row].numpy(), towers.rotation()[row].numpy()
    reshape_blocks(model, mujoco.MjData(model), kinds, sizes, rotations)
    for name in dir(model):
        wanted = getattr(compiled, name)
        if isinstance(wanted, np.ndarray) and name != "qpos_spring":  # of no use without springs
            assert getattr(model, name) == pytest.approx(wanted, abs=1e-9), name
    assert model.stat.meaninertia == pytest.approx(compiled.stat.meaninertia)


def test_labels_agree_with_the_simulation_whatever_the_batch_and_the_threads():
    towers = draw_towers(torch.arange(12), seed=1, shapes="both")
    stands = stays(towers, seed=3, threads=2)
    assert torch.equal(stands, towers.stable)  # holds for 99 % of towers, and for these
    assert not stands.all()
    times = fall_times(towers, seed=3, threads=1)
    assert torch.equal(times.isinf(), stands)
    assert torch.equal(fall_times(towers[5:7], seed=3), times[5:7])


def test_agreement_counts_what_contradicts_its_name():
    towers = draw_towers(torch.arange(50), seed=1)
    table = agreement(towers, towers.stable)
    assert table["agreement"] == 1
    assert table["contradictions"] == []
    wrong = towers.stable.clone()
    wrong[7] = ~wrong[7]
    table = agreement(towers, wrong)
    assert table["agreement"] == 0.98
    assert table["contradictions"] == towers[7:8].names()
    assert sum(row["towers"] for row in table["by_violation"].values()) == 50


def test_the_command_stores_a_line(tmp_path, capsys):
    line = tower_labels.main(["--towers", "4", "--threads", "1", "--results-dir", str(tmp_path)])
    assert line["towers"] == 4
    assert (tmp_path / "tower_labels.jsonl").read_text().count("\n") == 1
    assert "behave as they are named" in capsys.readouterr().out


def test_without_mujoco_one_line_says_what_to_install(without_mujoco):
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'genesis-rl\[env\]'"):
        stays(two_cubes())
