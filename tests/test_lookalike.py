"""Look-alikes: made where nobody has the data, once, as large as asked for and no larger."""

import pytest

from pretrain.data import generate as generating
from pretrain.data import load, lookalike
from pretrain.data.make_shapestacks import divide
from pretrain.data.verify import verify
from pretrain.run import main as pretrain
from runs import arguments, metrics, weights_sha256

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def one_worker(monkeypatch):
    monkeypatch.setattr(generating, "available_cores", lambda: 1)


def test_pretraining_on_gqn_without_data_makes_it_once(tmp_path, cache, capsys, one_worker):
    options = {"dataset": "gqn", "train_images": 4, "validation_images": 2, "steps": 2}
    assert pretrain(arguments(tmp_path / "a", **options)) == 0
    lines = capsys.readouterr().err.splitlines()
    root = cache / "lookalike" / "gqn-4-2-s0"
    said = "gqn: no --data-dir was given, so a look-alike of 80 images with 4 scenes for training"
    assert lines[0].startswith(f"{said} is generated once, into {root}; it takes about ")
    made = (root / "genesis_rl.json").stat().st_mtime_ns
    assert pretrain(arguments(tmp_path / "b", **options)) == 0
    assert "look-alike" not in capsys.readouterr().err
    assert (root / "genesis_rl.json").stat().st_mtime_ns == made
    assert weights_sha256(tmp_path / "a/model") == weights_sha256(tmp_path / "b/model")
    assert verify(root, progress=False).broken == []
    data = load("gqn", "train", data_dir=root)
    assert data.source.startswith("generated (genesis-rl ")
    assert "textures)" in data.source


def test_pretraining_on_shapestacks_without_data_makes_it(
    tmp_path, cache, capsys, monkeypatch, one_worker
):
    monkeypatch.setattr(lookalike, "estimate", lambda *_: 600)
    options = {"dataset": "shapestacks", "train_images": 16, "validation_images": 8, "steps": 2}
    assert pretrain(arguments(tmp_path / "a", **options, validate_every=2)) == 0
    said = capsys.readouterr().err.splitlines()[0]
    assert "look-alike of 112 images with 16 of them for training is generated once" in said
    assert said.endswith("; it takes about 10 minutes")
    scores = [line for line in metrics(tmp_path / "a") if line["split"] == "val"]
    assert all("ari_fg" in line for line in scores)
    root = cache / "lookalike" / "shapestacks-16-8-s0"
    assert verify(root, progress=False).broken == []
    parts = [load("shapestacks", split, data_dir=root) for split in ("train", "val", "test")]
    assert all(part.source.startswith("generated (genesis-rl ") for part in parts)
    # Towers that do not do what their names say are on a blacklist, and in no split.
    lists = (root / "shapestacks/meta").glob("blacklist_*.txt")
    contradicted = sum(path.read_text().count("\n") for path in lists)
    assert sum(map(len, parts)) == 112 - 16 * contradicted
    assert [len(part) for part in parts[1:]] == [16, 16]


def test_a_set_that_is_too_large_for_a_cpu_is_made_smaller(cache, capsys, monkeypatch, one_worker):
    monkeypatch.setitem(lookalike._CPU, "gqn", 2)
    monkeypatch.setattr(lookalike, "estimate", lambda *_: 10_000)
    root = lookalike.provide("gqn", train=1000, validation=1, device="cpu")
    assert root == cache / "lookalike" / "gqn-2-1-s0"
    assert "2 scenes for training (of 1,000 that were asked for: no GPU)" in capsys.readouterr().err
    assert lookalike.provide("gqn", train=2000, validation=1, device="cpu") == root


@pytest.mark.parametrize("name", ["gqn", "shapestacks"])
@pytest.mark.parametrize("train", [1, 7, 100, 2_000, 200_000])
@pytest.mark.parametrize("validation", [1, 320])
def test_a_recipe_makes_as_much_as_is_asked_for(name, train, validation):
    recipe = lookalike.recipe_for(name, train, validation)
    if name == "gqn":
        files = -(-recipe.train // recipe.scenes_per_file)
        held_out = max(1, files // 60)
        assert recipe.train == files * recipe.scenes_per_file
        assert (files - held_out) * recipe.scenes_per_file >= train
        assert held_out * recipe.scenes_per_file >= validation
        assert recipe.test >= validation
    else:
        names = [str(number) for number in range(recipe.scenarios)]
        splits = divide(names[: len(names) - len(names) // 200])  # some are contradicted
        assert 16 * len(splits["train"]) >= train
        assert 16 * len(splits["eval"]) >= validation
