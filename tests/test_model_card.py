import json

import pytest
import torch
import yaml

from benchmarks import model_card
from benchmarks.model_card import card
from genesis_rl import Genesis, GenesisConfig, load_checkpoint, save_checkpoint
from pretrain.data.generate import generate
from pretrain.data.make_gqn import GqnRecipe

MADE = {"dataset": "multi_dsprites", "steps": 7000, "batch_size": 16, "seed": 3}
MADE |= {"learning_rate": 1e-4, "precision": "fp32", "device": "a laptop", "minutes": 12.5}


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    model = Genesis(GenesisConfig(num_slots=3, image_size=32, width=4, mask_latents=8)).eval()
    return save_checkpoint(tmp_path / "little", model, metadata=MADE)


def test_a_card_is_written_beside_the_weights_and_leaves_them_alone(checkpoint, tmp_path):
    flags = ["--images", "4", "--results-dir", str(tmp_path / "results"), "--device", "cpu"]
    model_card.main([str(checkpoint), *flags, "--note", "It sees only squares."])
    text = (checkpoint / "README.md").read_text()
    line = json.loads((tmp_path / "results" / "segmentation.jsonl").read_text())
    assert f"{line['msc']['mean']:.3f}" in text
    assert "7,000 x 16" in text
    assert "It sees only squares." in text
    assert (checkpoint / "decomposition.png").stat().st_size > 0
    assert load_checkpoint(checkpoint).num_slots == 3


def test_the_head_of_a_card_is_yaml_with_the_scores():
    scores = {key: {"mean": 0.5, "std": 0.1} for key in ("ari_fg", "sc", "msc")}
    line = scores | {"one_slot": dict.fromkeys(scores, 0.1), "images": 4, "skipped": 0}
    line |= {"error_per_element": {"mean": 0.56}, "mse": {"mean": 0.003}}
    line |= {"latents": "means", "command": "python -m benchmarks.segmentation"}
    entry = {"model": "genesis", "config": {"num_slots": 5, "image_size": 64}, "metadata": MADE}
    head = yaml.safe_load(card("sprites", entry, line).split("---")[1])
    [result] = head["model-index"][0]["results"]
    assert result["metrics"] == [{"type": t, "value": 0.5} for t in ("ARI-FG", "SC", "mSC")]


def test_the_course_of_a_run_is_drawn_beside_its_card(checkpoint, tmp_path):
    train = {"split": "train", "error": 0.57, "kl": 9.0, "beta": 0.5}
    val = {"split": "val", "ari_fg": 0.1, "sc": 0.2, "msc": 0.3}
    lines = [json.dumps({"step": step} | row) for step in (1, 2) for row in (train, val)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    flags = ["--images", "4", "--results-dir", str(tmp_path / "results"), "--device", "cpu"]
    model_card.main([str(checkpoint), *flags, "--run", str(tmp_path)])
    assert (checkpoint / "training.png").stat().st_size > 0
    assert "(training.png)" in (checkpoint / "README.md").read_text()


def test_a_card_says_which_weights_training_started_from(checkpoint, tmp_path):
    model, made = load_checkpoint(checkpoint), MADE | {"start_from": "older_weights"}
    flags = ["--images", "4", "--results-dir", str(tmp_path / "results"), "--device", "cpu"]
    for metadata, said in ((made, True), (MADE, False)):
        save_checkpoint(checkpoint, model, metadata=metadata)
        model_card.main([str(checkpoint), *flags])
        assert (
            "| started from | older_weights |" in (checkpoint / "README.md").read_text()
        ) == said


def test_a_card_scores_the_dataset_in_a_folder(checkpoint, tmp_path):
    model, made = load_checkpoint(checkpoint), MADE | {"dataset": "gqn"}
    save_checkpoint(checkpoint, model, metadata=made)
    rooms, results = tmp_path / "rooms", tmp_path / "results"
    recipe = GqnRecipe(train=2, test=3, scenes_per_file=2, samples=1, textures="procedural")
    generate(recipe, rooms, device="cpu", workers=1, progress=False)
    flags = ["--images", "3", "--results-dir", str(results), "--device", "cpu"]
    model_card.main([str(checkpoint), *flags, "--data-dir", str(rooms)])
    line = json.loads((results / "segmentation.jsonl").read_text())
    assert (line["dataset"], line["split"], line["images"]) == ("gqn", "test", 3)


def test_a_run_without_metrics_has_no_course(checkpoint, tmp_path):
    with pytest.raises(ValueError, match="holds no metrics"):
        model_card.draw_curve(tmp_path, checkpoint / "training.png")
    assert not (checkpoint / "training.png").exists()


def test_a_card_says_when_weights_are_averages():
    assert model_card._averaging(0.999) == [
        ("weights", "running average of those of all steps, decay 0.999")
    ]
    assert model_card._averaging(0.0) == []
