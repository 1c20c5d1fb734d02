import json
import warnings
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from benchmarks import controls, factor_features, fid, inception
from benchmarks.common import run_cli
from benchmarks.factor_features import FEATURES, METRIC, Recipe
from benchmarks.feature_space import FeatureSpace, describe, find_inception
from benchmarks.frechet import frechet_distance
from benchmarks.reference import dataset_images
from plain_data import Plain, greys
from pretrain import data

CPU = torch.device("cpu")
QUICK = Recipe(images=512, steps=60, batch=32, held_out=256)


MEAN_COLOUR = FeatureSpace("colour", 3, lambda pixels: pixels.mean(dim=(2, 3)), {})


class Grey:
    """A model whose sample is as bright as the first number of its noise."""

    def sample(self, count, noise):
        level = noise[:, 0, :1, None, None].expand(-1, 3, 8, 8)
        return SimpleNamespace(reconstruction=level)


def test_pixels_are_cut_to_eight_bits_not_rounded():
    levels = torch.tensor([-1.0, 0.0, 0.999 / 255, 1.001 / 255, 254.9 / 255, 1.0, 1.0000001, 2.0])
    images = levels.view(1, 1, 1, -1).expand(1, 3, 1, -1)
    assert fid.quantise(images)[0, 0, :, 0].tolist() == [0, 0, 0, 1, 254, 255, 255, 255]


def test_the_true_colours_of_multi_dsprites_survive_the_truncation():
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 1, -1)
    assert torch.equal(fid.quantise(levels.float() / 255)[0, 0, :, 0], levels.view(-1))


def test_samples_are_those_of_the_noise_in_any_batches():
    noise = torch.rand(10, 1, 2, generator=torch.Generator().manual_seed(0))
    one, three = (torch.cat(list(fid.sample_images(Grey(), noise, b, CPU))) for b in (1, 3))
    assert torch.equal(one, three)
    assert one[:, 0, 0, 0].tolist() == (noise[:, 0, 0] * 255).int().tolist()


def test_samples_that_are_not_finite_are_refused():
    noise = torch.rand(4, 1, 2)
    noise[1] = float("nan")
    with pytest.raises(ValueError, match="samples hold NaN or infinite values"):
        list(fid.sample_images(Grey(), noise, 2, CPU))


def test_references_are_the_first_images_in_order():
    dataset = Plain(greys(20))
    shown = torch.cat(list(dataset_images(dataset, 7, 3)))
    assert shown[:, 0, 0, 0].tolist() == list(range(7))


def test_the_distance_of_grey_images_can_be_seen():
    black = torch.zeros(100, 8, 8, 3, dtype=torch.uint8)
    a = describe([black[:40], black[40:]], MEAN_COLOUR, CPU, total=100, label="black")
    b = describe([black + 255], MEAN_COLOUR, CPU, total=100, label="white")
    assert frechet_distance(a, b) == pytest.approx(3)  # one for each channel


def test_blur_keeps_the_mean_and_noise_keeps_nothing():
    images, rows = data.load("multi_dsprites", "test").batch(range(4)).images, torch.arange(4)
    for spoil in controls.SPOILT.values():
        spoilt = spoil(images, rows)
        assert spoilt.shape == images.shape
        assert spoilt.dtype == torch.uint8
        assert torch.equal(spoilt, spoil(images, rows))
        assert torch.equal(spoilt[2:], spoil(images[2:], rows[2:]))  # of the image and its index
        assert not torch.equal(spoilt, images)
    assert torch.equal(controls.blurred(images * 0 + 9, rows), images * 0 + 9)
    tiles = controls.shuffled(images, rows)
    pixels = (x.flatten(1, 2).sort(dim=1).values for x in (images, tiles))
    assert torch.equal(*pixels)  # the same ones, elsewhere
    assert abs(controls.noise(images, rows).float().mean() - 127.5) < 2


@pytest.fixture(scope="module")
def splits():
    return {s: data.load("multi_dsprites", s, image_size=32) for s in ("train", "val", "test")}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def trained(splits, cache):
    return factor_features.factor_features(splits["train"], splits["val"], QUICK, cache)


def test_the_network_learns_factors_and_says_how_well(trained):
    assert trained.accuracy["background red"] > trained.chance["background red"] + 0.3
    assert trained.accuracy.keys() == trained.chance.keys()
    assert trained.network(torch.rand(2, 3, 32, 32)).shape == (2, FEATURES)


def test_training_is_a_function_of_its_arguments(splits, trained, tmp_path):
    state = torch.get_rng_state()
    torch.set_num_threads(2)  # as little as the global random state does it matter
    again = factor_features.factor_features(splits["train"], splits["val"], QUICK, tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == 2
    assert (again.sha256, again.accuracy) == (trained.sha256, trained.accuracy)


def test_a_trained_network_is_kept(splits, trained, cache, monkeypatch):
    monkeypatch.delattr(factor_features, "train_network")
    kept = factor_features.factor_features(splits["train"], splits["val"], QUICK, cache)
    assert kept.summary() == trained.summary()
    x = torch.rand(1, 3, 32, 32)
    assert torch.equal(kept.network(x), trained.network(x))


def test_a_damaged_network_is_made_again(splits, trained, cache, tmp_path, monkeypatch):
    (kept,) = cache.glob("*.safetensors")
    whole, path = kept.read_bytes(), tmp_path / kept.name
    arguments = splits["train"], splits["val"], QUICK, tmp_path
    monkeypatch.setattr(factor_features, "train_network", lambda train, val, recipe: trained)
    for damaged in (b"", whole[:-100], whole[:-1] + bytes([whole[-1] ^ 1])):
        path.write_bytes(damaged)
        with pytest.warns(UserWarning, match=r"is damaged .* trained again"):
            factor_features.factor_features(*arguments)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert factor_features.factor_features(*arguments).sha256 == trained.sha256


def test_the_key_of_a_network_tells_data_and_recipes_apart(splits):
    train, other = splits["train"], data.load("multi_dsprites", "train", image_size=32, seed=1)
    cases = [(train, QUICK), (train, Recipe()), (splits["val"], QUICK), (other, QUICK)]
    assert len({factor_features.cache_key(*case) for case in cases}) == 4


def test_the_more_images_are_spoilt_the_further_they_are(splits, trained):
    space = FeatureSpace(METRIC, FEATURES, trained.network, {})

    def first(split, spoil=lambda images, rows: images):
        images = dataset_images(splits[split], 1000, 250, spoil)
        return describe(images, space, CPU, total=1000, label=split)

    test = first("test")
    described = [first("val"), *(first("test", spoil) for spoil in controls.SPOILT.values())]
    distances = [frechet_distance(images, test) for images in described]
    assert distances == sorted(distances)  # other true images, blurred, shuffled, noise
    assert distances[-1] > 20 * distances[0]


@pytest.mark.gpu
def test_devices_agree_about_distances(splits, trained):
    distances = []
    for device in (CPU, torch.device("cuda")):
        space = FeatureSpace(METRIC, FEATURES, trained.network.to(device), {})
        described = [
            describe(dataset_images(splits[s], 500, 100), space, device, total=500, label=s)
            for s in ("val", "test")
        ]
        distances.append(frechet_distance(*described))
        trained.network.cpu()
    assert distances[0] == pytest.approx(distances[1], rel=1e-3)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    from genesis_rl import Genesis, GenesisConfig, save_checkpoint

    torch.manual_seed(0)
    model = Genesis(GenesisConfig(num_slots=3, image_size=32, width=4))
    return save_checkpoint(tmp_path_factory.mktemp("weights") / "tiny", model)


@pytest.fixture
def quick(monkeypatch, tmp_path, cache):
    """Command lines that find no Inception weights, and a network that is trained already."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    monkeypatch.setattr(factor_features, "Recipe", lambda: QUICK)
    (cache / "factor-features").mkdir(exist_ok=True)
    for path in cache.glob("*.safetensors"):
        (cache / "factor-features" / path.name).write_bytes(path.read_bytes())
    monkeypatch.setenv("GENESIS_RL_CACHE", str(cache))
    return ["--results-dir", str(tmp_path), "--device", "cpu", "--picture", str(tmp_path / "p.png")]


def without_clock(line):
    return {name: value for name, value in line.items() if name not in ("seconds", "date")}


@pytest.mark.usefixtures("trained")
def test_the_command_never_calls_factor_features_fid(checkpoint, quick, tmp_path, capsys):
    argv = ["--checkpoint", str(checkpoint), "--images", "70", "--seeds", "0", "1", *quick]
    runs = []
    for _ in range(2):
        fid.main(argv)
        output = capsys.readouterr()
        runs.append(json.loads(output.out.splitlines()[-1]))
    assert without_clock(runs[0]) == without_clock(runs[1])
    line = runs[0]
    assert line["metric"] == "Frechet distance (factor features)"
    assert "which is not the FID and cannot be compared with it" in output.err
    assert "this is not the FID" in output.out
    assert line["distance"]["mean"] == pytest.approx(np.mean(line["per_seed"]), abs=1e-4)
    assert line["distance"]["std"] == pytest.approx(np.std(line["per_seed"]), abs=1e-4)
    assert list(line["controls"]) == ["other true images", "blurred", "shuffled", "noise"]
    assert line["controls"]["other true images"] < line["distance"]["mean"]
    assert line["network"]["accuracy"].keys() == line["network"]["chance"].keys()
    assert (line["source"], line["split"], line["seed"]) == ("re-rendered", "test", [0, 1])
    assert cv2.imread(str(tmp_path / "p.png")).shape == (2 * (64 + 2) + 2, 10 * (64 + 2) + 2, 3)


@pytest.mark.usefixtures("trained")
def test_several_checkpoints_have_a_line_each_and_other_samplers_other_samples(
    checkpoint, quick, tmp_path
):
    argv = ["--checkpoint", str(checkpoint), str(checkpoint), "--images", "70", *quick]
    argv += ["--no-controls"]
    first, second = fid.main(argv)
    assert first["per_seed"] == second["per_seed"]
    assert first["controls"] == {}
    assert cv2.imread(str(tmp_path / "p.png")).shape[0] == 3 * (64 + 2) + 2
    (raw,) = fid.main(["--checkpoint", str(checkpoint), "--raw-prior-means", *argv[3:]])
    assert (raw["sampler"], first["sampler"]) == ("raw prior means", "as trained")
    assert raw["per_seed"] != first["per_seed"]


def test_with_inception_features_it_is_the_fid_beside_the_papers(
    checkpoint, quick, monkeypatch, capsys, tmp_path
):
    """The command around the network; the network itself is tested in test_inception.py."""
    monkeypatch.setattr(inception, "load_inception", lambda path: torch.nn.Flatten())
    monkeypatch.setattr(inception, "FEATURES", 3)
    monkeypatch.setattr(torch.nn.Flatten, "forward", lambda self, x: x.mean(dim=(2, 3)))
    weights = tmp_path / "weights.pth"
    weights.touch()
    argv = ["--checkpoint", str(checkpoint), "--images", "70", *quick]
    (line,) = fid.main([*argv, "--inception-weights", str(weights)])
    output = capsys.readouterr()
    assert line["metric"] == "FID"
    assert line["network"] == {"sha256": inception.SHA256}
    assert line["controls"] == {}
    assert "not the FID" not in output.out + output.err
    assert "24.9" in output.out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--images", "64"], r"--images must be above 64, the number of features, .*; got 64"),
        (["--images", "10001"], "--images must be at most 10000, the size of the split; got 10001"),
        (["--features", "inception"], "no Inception weights at .*hub/checkpoints/pt_inception"),
        (["--inception-weights", "nowhere.pth"], r"no Inception weights at nowhere\.pth; get them"),
        (["--features", "factors", "--inception-weights", "x"], "no use for --inception-weights"),
        (["--checkpoint", "nowhere"], "no checkpoint 'nowhere'"),
        (["--dataset", "multi_dsprite"], "Did you mean 'multi_dsprites'"),
    ],
)
def test_a_mistake_is_named(checkpoint, quick, argv, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message) as raised:
        fid.main(["--checkpoint", str(checkpoint), *quick, *argv])
    assert "\n" not in str(raised.value)


def test_fewer_images_than_inceptions_features_are_refused(checkpoint, quick, tmp_path):
    (tmp_path / "w.pth").touch()
    argv = ["--checkpoint", str(checkpoint), *quick, "--inception-weights", str(tmp_path / "w.pth")]
    with pytest.raises(ValueError, match=r"--images must be above 2048, .*; got 2048"):
        fid.main([*argv, "--images", "2048"])
    with pytest.raises(ValueError, match=r"w\.pth is truncated: 0 bytes"):
        fid.main([*argv, "--images", "2049"])


def test_models_that_cannot_sample_are_refused_before_anything_long():
    with pytest.raises(ValueError, match="holds a classifier, which has no sample"):
        fid.check_model(torch.nn.Identity(), "here", "classifier", raw_prior_means=False)
    with pytest.raises(
        ValueError, match="--raw-prior-means is for genesis, but here holds a monet"
    ):
        fid.check_model(Grey(), "here", "monet", raw_prior_means=True)


def test_the_command_line_ends_a_mistake_with_one_line(quick, capsys):
    argv = ["--checkpoint", "nowhere", "--features", "factors", *quick]
    with pytest.raises(SystemExit, match="2"):
        run_cli(lambda _: fid.main(argv))
    said = capsys.readouterr().err
    assert said.startswith("error: no checkpoint 'nowhere'")
    assert said.count("\n") == 1
    with pytest.raises(SystemExit, match="2"):
        fid.main([*argv, "--images", "0"])
    assert "needs a number above 0, got 0" in capsys.readouterr().err


def test_no_weights_say_what_is_measured_instead(quick, capsys):
    assert find_inception(None, "auto") is None
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert METRIC in said
    assert find_inception(None, "factors") is None
    assert capsys.readouterr().err == ""
