import hashlib

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import inception
from benchmarks.inception import Inception, from_state_dict
from genesis_rl.inference.cuda import precision_of
from released_weights import released_state_dict


@pytest.fixture(scope="module")
def stored():
    """A state dict as the public file holds it, with numbers drawn from the entries' names."""
    with torch.device("meta"):
        shapes = {name: list(value.shape) for name, value in Inception().state_dict().items()}
    return released_state_dict({**shapes, "fc.weight": [1008, 2048], "fc.bias": [1008]})


@pytest.fixture(scope="module")
def network(stored):
    return from_state_dict(stored, "the fixture")


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_it_has_the_published_size_and_cost():
    with torch.device("meta"):
        model = Inception().eval()
        with FlopCounterMode(display=False) as counter:
            features = model(torch.zeros(1, 3, 299, 299))
    assert features.shape == (1, 2048)
    # torchvision's Inception v3 without its two classifiers, which has the same convolutions.
    assert sum(p.numel() for p in model.parameters()) == 27_161_264 - 3_326_696 - 2_049_000
    assert counter.get_total_flops() / 2 == pytest.approx(5.71e9, rel=1e-3)
    # The public file has 566 entries, two of them the classifier's.
    assert len(model.state_dict()) == 566 - 2
    assert sum(isinstance(m, torch.nn.Conv2d) for m in model.modules()) == 94


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("Conv2d_1a_3x3.conv.weight", (32, 3, 3, 3)),
        ("Mixed_5b.branch5x5_2.conv.weight", (64, 48, 5, 5)),
        ("Mixed_6a.branch3x3dbl_3.bn.running_var", (96,)),
        ("Mixed_6c.branch7x7dbl_2.conv.weight", (160, 160, 7, 1)),
        ("Mixed_6e.branch7x7_2.conv.weight", (192, 192, 1, 7)),
        ("Mixed_7a.branch7x7x3_4.conv.weight", (192, 192, 3, 3)),
        ("Mixed_7c.branch3x3dbl_3b.conv.weight", (384, 384, 3, 1)),
        ("Mixed_7c.branch_pool.bn.bias", (192,)),
    ],
)
def test_layers_have_the_names_and_shapes_of_the_public_file(network, name, shape):
    assert network.state_dict()[name].shape == shape


def test_features_depend_on_the_image_alone(network, images):
    features = network(images)
    assert features.shape == (2, 2048)
    assert features.dtype == torch.float32
    assert bool((features >= 0).all())  # means of what came out of a ReLU
    assert features.std() > 0
    assert torch.equal(features, network(images))
    torch.testing.assert_close(features[1:], network(images[1:]), rtol=1e-4, atol=1e-5)


def test_images_enter_at_299_pixels_between_minus_one_and_one(network):
    seen = []
    hook = network.Conv2d_1a_3x3.register_forward_hook(lambda module, x, y: seen.append(x[0]))
    try:
        exact = torch.linspace(0, 1, 299).expand(1, 3, 299, 299)
        network(exact)
        step = torch.zeros(1, 3, 2, 2)
        step[..., 1] = 1
        network(step)
    finally:
        hook.remove()
    torch.testing.assert_close(seen[0], 2 * exact - 1)  # that size is not resized
    # Pixel centres are at 1/4 and 3/4 of the width: flat outside, a straight line between them.
    middles = (torch.arange(299) + 0.5) / 299
    expected = ((middles - 0.25) * 2).clamp(0, 1) * 2 - 1
    torch.testing.assert_close(seen[1][0, 0, 0], expected, rtol=0, atol=1e-5)


def test_average_pools_leave_the_padding_out():
    assert torch.equal(inception.average(torch.ones(1, 1, 4, 4)), torch.ones(1, 1, 4, 4))


def test_only_the_last_block_pools_by_the_maximum(network):
    pools = {n: m.pool for n, m in network.named_modules() if isinstance(m, inception.Coarse)}
    assert pools == {"Mixed_7b": "average", "Mixed_7c": "max"}
    x = torch.zeros(1, 2048, 8, 8)
    x[..., 3, 3] = 1
    block = network.Mixed_7c
    pooled = block(x)[:, -192:]
    assert torch.equal(pooled[..., 2, 4], pooled[..., 3, 3])  # the maximum reaches its neighbours
    assert not torch.equal(pooled[..., 3, 3], pooled[..., 3, 5])


def same_weights(a, b):
    b = b.state_dict()
    return all(torch.equal(t, b[n]) for n, t in a.state_dict().items() if "num_batches" not in n)


def test_a_file_without_counters_is_the_same_network(stored, network):
    bare = {name: t for name, t in stored.items() if not name.endswith("num_batches_tracked")}
    read = from_state_dict(bare, "bare")
    assert same_weights(read, network)
    assert not read.training


def test_another_architecture_is_named(stored):
    fewer = {name: t for name, t in stored.items() if "Mixed_7c.branch1x1" not in name}
    with pytest.raises(ValueError, match=r"x is not the FID's Inception: 5 entries, .*branch1x1"):
        from_state_dict(fewer, "x")
    with pytest.raises(ValueError, match=r"1 entries, \['AuxLogits.fc.weight'\]"):
        from_state_dict({**stored, "AuxLogits.fc.weight": torch.zeros(1)}, "x")
    name = "Conv2d_1a_3x3.conv.weight"
    with pytest.raises(ValueError, match=rf"1 entries, \['{name}'\]"):
        from_state_dict({**stored, name: torch.zeros(32, 1, 3, 3)}, "x")


@pytest.fixture(scope="module")
def file(stored, tmp_path_factory):
    """What the public file is: zip archives came after 2018."""
    path = tmp_path_factory.mktemp("hub") / "checkpoints" / inception.FILE
    path.parent.mkdir()
    torch.save(stored, path, _use_new_zipfile_serialization=False)
    return path


@pytest.fixture
def published(file, monkeypatch):
    monkeypatch.setattr(inception, "BYTES", file.stat().st_size)
    monkeypatch.setattr(inception, "SHA256", hashlib.sha256(file.read_bytes()).hexdigest())


def test_the_public_files_size_and_hash_are_those_in_its_name():
    assert inception.FILE.split("-")[-1] == f"{inception.SHA256[:8]}.pth"
    assert len(inception.SHA256) == 64
    # 23,885,392 numbers (with the classifier for 1,008 classes) take 95.54 MB.
    numbers = 21_785_568 + 2 * 17_216 + 1008 * 2049
    assert 0 < inception.BYTES - 4 * numbers < 100_000


@pytest.mark.usefixtures("published")
def test_the_file_is_read(file, network):
    assert same_weights(inception.load_inception(file), network)


@pytest.mark.usefixtures("published")
def test_a_truncated_file_is_named(file, tmp_path):
    short = tmp_path / "short.pth"
    short.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"short\.pth is truncated: 1000 bytes, not \d+; get it"):
        inception.load_inception(short)


@pytest.mark.usefixtures("published")
def test_a_file_with_another_hash_is_not_loaded(file, tmp_path):
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    (tmp_path / "flipped.pth").write_bytes(data)
    with pytest.raises(ValueError, match=r"flipped\.pth is damaged or another file: its SHA-256"):
        inception.load_inception(tmp_path / "flipped.pth")
    (tmp_path / "longer.pth").write_bytes(data + b"\0")
    with pytest.raises(ValueError, match=r"longer\.pth is another file: \d+ bytes, not \d+"):
        inception.load_inception(tmp_path / "longer.pth")


def test_weights_are_taken_from_the_path_or_from_torch_hubs_cache(file, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    assert inception.find_weights() is None
    monkeypatch.setattr(torch.hub, "_hub_dir", str(file.parent.parent))
    assert inception.find_weights() == file
    assert inception.find_weights(file) == file
    with pytest.raises(FileNotFoundError, match=r"weights at .*nowhere; get them from"):
        inception.find_weights(tmp_path / "nowhere")


@pytest.mark.gpu
def test_devices_agree(network, images):
    with precision_of("fp32"):  # cuDNN would take TF32 for granted
        there = from_state_dict({**network.state_dict()}, "the network").cuda()(images.cuda())
    torch.testing.assert_close(there.cpu(), network(images), rtol=1e-3, atol=1e-4)
