import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from benchmarks import segmentation
from genesis_rl.models.genesis import Decomposition

CPU = torch.device("cpu")


class RedIsTheLabel:
    """A model that reads each pixel's label off its red channel, so that it cannot be wrong."""

    num_slots, slot_dim = 4, 2

    def eval(self):
        return self

    def decompose(self, images):
        labels = (images[:, 0] * 255).round().long()
        log_masks = torch.nn.functional.one_hot(labels, 4).permute(0, 3, 1, 2)[:, :, None].log()
        components = images[:, None].expand(-1, 4, -1, -1, -1)
        output = Decomposition(log_masks.float(), components, torch.zeros(len(images), 4, 2))
        return SimpleNamespace(
            log_masks=output.log_masks,
            masks=output.masks,
            components=output.components,
            reconstruction=output.reconstruction,
            error=images.flatten(1).sum(dim=1),
        )


def scene(labels):
    labels = torch.tensor(labels)
    images = torch.zeros(*labels.shape, 3, dtype=torch.uint8)
    images[..., 0] = labels
    return images, labels


def test_a_model_that_cannot_be_wrong_scores_one():
    half = np.repeat([1, 2], 8).reshape(4, 4)
    images, labels = scene(np.stack([half, half, np.zeros((4, 4), int)]))
    result = segmentation.run(RedIsTheLabel(), images, labels, device=CPU, batch_size=2)
    summary = result.summary()
    assert (summary["images"], summary["skipped"]) == (2, 1)
    for name in segmentation.METRICS:
        assert summary[name] == {"mean": 1.0, "std": 0.0}
    # One slot for everything: it covers each object by half and its ARI is that of chance.
    assert summary["one_slot"] == {"ari_fg": 0.0, "ari": 0.0, "sc": 0.5, "msc": 0.5}
    assert summary["mse"]["mean"] == pytest.approx(0, abs=1e-12)
    assert result.error[0].item() == pytest.approx((8 * 1 + 8 * 2) / 255 / 48)


def test_cases_are_the_best_the_median_and_the_worst():
    images, labels = scene(np.repeat([0, 1, 2, 2], 4).reshape(4, 4)[None].repeat(4, axis=0))
    true = labels.clone()
    for image in range(4):
        true[image].view(-1)[-image:] = 1  # the later, the further from what the model sees
    true[0] = labels[0]
    result = segmentation.run(RedIsTheLabel(), images, true, device=CPU)
    assert result.order() == [0, 1, 2, 3]
    assert segmentation.picture_cases(result) == [0, 2, 3]


def test_the_choice_of_images_depends_on_the_seed_alone():
    first = segmentation.choose_images(1000, 20, seed=0)
    assert len(set(first.tolist())) == 20
    assert first.tolist() == segmentation.choose_images(1000, 20, seed=0).tolist()
    assert first.tolist() != segmentation.choose_images(1000, 20, seed=1).tolist()
    with pytest.raises(ValueError, match="at most 10, the size of the split; got 11"):
        segmentation.choose_images(10, 11, seed=0)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    from genesis_rl import Genesis, GenesisConfig, save_checkpoint

    torch.manual_seed(0)
    model = Genesis(GenesisConfig(num_slots=3, image_size=32, width=4))
    return save_checkpoint(tmp_path_factory.mktemp("weights") / "tiny", model)


@pytest.mark.parametrize("latents", ["means", "samples"])
def test_the_command_scores_a_checkpoint(checkpoint, tmp_path, capsys, latents):
    picture = tmp_path / "cases.png"
    argv = ["--checkpoint", str(checkpoint), "--images", "6", "--seeds", "0", "1"]
    argv += ["--picture", str(picture), "--results-dir", str(tmp_path), "--device", "cpu"]
    argv += ["--samples"] * (latents == "samples")
    lines = []
    for _ in range(2):  # the same command gives the same numbers
        segmentation.main(argv)
        lines.append(json.loads(capsys.readouterr().out.splitlines()[-1]))
    for line in lines:
        line.pop("seconds"), line.pop("date")
    assert lines[0] == lines[1]
    assert lines[0]["latents"] == latents
    assert lines[0]["seed"] == [0, 1]
    assert lines[0]["images"] + lines[0]["skipped"] == 12
    assert len(lines[0]["per_seed"]["ari_fg"]) == 2
    assert 0 <= lines[0]["msc"]["mean"] <= 1
    assert cv2.imread(str(picture)).shape == (3 * (64 + 2) + 2, (1 + 3 + 2 * 3) * (64 + 2) + 4, 3)


def test_models_are_averaged_over_their_means(checkpoint, tmp_path, capsys):
    import shutil

    other = shutil.copytree(checkpoint, tmp_path / "other")
    argv = ["--checkpoint", str(checkpoint), str(other), "--images", "4", "--device", "cpu"]
    argv += ["--picture", str(tmp_path / "cases.png"), "--results-dir", str(tmp_path)]
    first, second = segmentation.main(argv)
    assert (first["checkpoint"], second["checkpoint"]) == (str(checkpoint), str(other))
    assert first["ari"] == second["ari"]  # the same weights see the same images
    assert "over 2 checkpoints" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["cases-0.png", "cases-1.png"]
    means = [{"mean": value, "std": 9.0} for value in (0.2, 0.4)]
    lines = [dict.fromkeys((*segmentation.METRICS, "error_per_element", "mse"), m) for m in means]
    assert segmentation.over_models(lines)["ari_fg"] == {"mean": 0.3, "std": 0.1}


def test_a_dataset_without_masks_is_refused(checkpoint, tmp_path):
    from pretrain.data.env_frames import EnvFrames

    EnvFrames(
        "test", variant="envs:GenesisRL/SpriteGoal-v0", size=4, image_size=32, data_dir=tmp_path
    )
    argv = [
        "--checkpoint",
        str(checkpoint),
        "--dataset",
        "env:envs:GenesisRL/SpriteGoal-v0",
        "--images",
        "4",
    ]
    with pytest.raises(ValueError, match="has no instance masks"):
        segmentation.main([*argv, "--data-dir", str(tmp_path), "--results-dir", str(tmp_path)])


def test_a_mistake_is_named(checkpoint, tmp_path):
    with pytest.raises(ValueError, match=r"multi_dsprites"):
        segmentation.main(["--checkpoint", str(checkpoint), "--dataset", "multi_dsprite"])
    with pytest.raises(FileNotFoundError, match="no checkpoint 'nowhere'"):
        segmentation.main(["--checkpoint", "nowhere"])
    with pytest.raises(SystemExit):  # argparse says that it needs a number above 0
        segmentation.main(["--checkpoint", str(checkpoint), "--images", "0"])
