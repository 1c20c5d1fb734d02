"""Figures show what the model made, in the order that their titles say."""

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import figures, sheets
from genesis_rl import GenesisConfig, save_checkpoint
from genesis_rl.edits import (
    foreground_slots,
    swap,
    swap_panels,
    traversal_frames,
    traversal_panels,
    traverse,
)
from genesis_rl.figures import (
    Panel,
    building_frames,
    canvases_over_checks,
    decomposition_panels,
    generation_panels,
    over_checks,
)
from genesis_rl.models.genesis import Decomposition, Genesis
from genesis_rl.models.genesis_s import GenesisS, GenesisSConfig
from genesis_rl.models.monet import Monet, MonetConfig
from genesis_rl.models.vae import BdVae, DcVae, VaeConfig
from genesis_rl.pictures import PALETTE
from toys import tiny_model

VAE = VaeConfig(image_size=32, latents=5, width=4)
MODELS = {
    "genesis": lambda: Genesis(GenesisConfig(3, 32, 6, 2, width=4)),
    "genesis_s": lambda: GenesisS(GenesisSConfig(3, 32, 6, width=4)),
    "monet": lambda: Monet(MonetConfig(3, 32, 2, width=4)),
    "bd_vae": lambda: BdVae(VAE),
    "dc_vae": lambda: DcVae(VAE),
}


@pytest.fixture(params=MODELS)
def model(request):
    torch.manual_seed(0)
    return MODELS[request.param]().eval()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    metadata = {"dataset": "multi_dsprites"}
    return save_checkpoint(
        tmp_path_factory.mktemp("figures") / "tiny", tiny_model(), metadata=metadata
    )


@pytest.fixture
def images():
    return torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def two_halves():
    """Slot 1 owns the left half and is red, slot 2 the right half and is green."""
    masks = torch.zeros(1, 2, 1, 8, 8)
    masks[0, 0, :, :, :4] = masks[0, 1, :, :, 4:] = 1
    components = torch.zeros(1, 2, 3, 8, 8)
    components[0, 0, 0] = components[0, 1, 1] = 1
    return Decomposition(masks.log(), components, torch.zeros(1, 2, 4))


RED, GREEN, BLACK, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 0), (255, 255, 255)
LIGHT, DARK = (250, 250, 250), (224, 224, 224)


def colours(view):
    """The colours of a view's left and of its right half, darker first."""
    return [
        sorted({tuple(pixel) for pixel in half.reshape(-1, 3).tolist()})
        for half in (view[:, :4], view[:, 4:])
    ]


def test_a_step_shows_scope_mask_component_and_the_component_in_its_mask():
    (panel,) = decomposition_panels(torch.zeros(1, 3, 8, 8), two_halves())
    assert list(panel.rows) == ["scope", "mask", "component", "masked"]
    assert panel.columns == ["k = 1", "k = 2"]
    assert panel.views.shape == (4, 2, 8, 8, 3)
    first, second = panel.views[:, 0], panel.views[:, 1]
    assert [colours(view) for view in first] == [
        [[WHITE], [WHITE]],
        [[PALETTE[0]], [WHITE]],
        [[RED], [RED]],
        [[RED], [DARK, LIGHT]],
    ]
    assert [colours(view) for view in second] == [
        [[BLACK], [WHITE]],
        [[WHITE], [PALETTE[1]]],
        [[GREEN], [GREEN]],
        [[DARK, LIGHT], [GREEN]],
    ]
    (name, shown), (other, reconstruction) = panel.heads
    assert (name, other) == ("input", "reconstruction")
    assert colours(shown) == [[BLACK], [BLACK]]
    assert colours(reconstruction) == [[RED], [GREEN]]


def test_a_canvas_shows_through_where_nothing_is_painted_yet():
    (panel,) = generation_panels(two_halves())
    assert panel.rows[-1] == "canvas"
    assert colours(panel.views[-1, 0]) == [[RED], [DARK, LIGHT]]
    assert colours(panel.views[-1, 1]) == [[RED], [GREEN]]
    assert colours(panel.heads[1][1]) == [[PALETTE[0]], [PALETTE[1]]]


def test_an_animation_begins_empty_and_ends_with_the_image():
    frames = building_frames(two_halves(), torch.zeros(1, 3, 8, 8))
    assert [frame.columns for frame in frames] == [[""], ["k = 1"], ["k = 2"]]
    assert all(frame.rows == ["input", "canvas", "component"] for frame in frames)
    assert colours(frames[0].views[1, 0]) == [[DARK, LIGHT], [DARK, LIGHT]]
    assert colours(frames[2].views[1, 0]) == [[RED], [GREEN]]
    assert colours(frames[2].views[2, 0]) == [[DARK, LIGHT], [GREEN]]


def test_half_an_opacity_is_half_the_ground():
    pixels = torch.ones(1, 3, 8, 8)
    half = over_checks(torch.full((1, 1, 8, 8), 0.5), pixels)
    nothing = over_checks(torch.zeros(1, 1, 8, 8), pixels)
    torch.testing.assert_close(half, (pixels + nothing) / 2)


def test_scopes_are_what_earlier_masks_left(model, images):
    with torch.no_grad():
        output = model.decompose(images[:2])
    left = torch.ones_like(output.masks[:, 0])
    for k in range(model.num_slots):
        torch.testing.assert_close(output.scopes[:, k], left, atol=1e-6, rtol=0)
        left = left - output.masks[:, k]
    torch.testing.assert_close(canvases_over_checks(output)[:, -1], output.reconstruction)


def test_decoding_the_latents_of_a_pass_draws_what_the_pass_drew(model, images):
    with torch.no_grad():
        output = model.decompose(images[:2])
        drawn = model.decode(output.latents)
        sample = model.sample(2, model.draw_noise(2))
        again = model.decode(sample.latents)
    torch.testing.assert_close(drawn.components, output.components)
    torch.testing.assert_close(again.reconstruction, sample.reconstruction)
    torch.testing.assert_close(again.log_masks, sample.log_masks)
    if not isinstance(model, Monet):  # whose attention makes the masks of a pass, from the image
        torch.testing.assert_close(drawn.log_masks, output.log_masks)


def test_a_traversal_moves_one_number_of_one_slot():
    latents = torch.arange(6.0).view(2, 3)
    spread = torch.tensor([1.0, 10.0, 100.0])
    moved = traverse(latents, 1, [2, 0], [-1, 0, 0.5], spread)
    assert moved.shape == (6, 2, 3)
    assert (moved[:, 0] == latents[0]).all()
    assert moved[:, 1].tolist() == [
        [3, 4, -95],
        [3, 4, 5],
        [3, 4, 55],
        [2, 4, 5],
        [3, 4, 5],
        [3.5, 4, 5],
    ]


def test_the_middle_of_a_traversal_is_the_reconstruction(model, images):
    with torch.no_grad():
        drawn = model.decode(model.encode(images[:1])).reconstruction[0]
    expected = (drawn.permute(1, 2, 0) * 255).round().numpy()
    panels = traversal_panels(model, images, slots=[0], dimensions=2)
    for panel in panels:
        assert panel.columns == ["-2 sd", "-1 sd", "0", "+1 sd", "+2 sd"]
        assert panel.views.shape == (2, 5, 32, 32, 3)
        for middle in panel.views[:, 2]:
            np.testing.assert_allclose(middle, expected, atol=1)
    kinds = ["what", "where"] if all(model.latent_sizes) else ["latent"]
    assert [panel.rows[0].split()[0] for panel in panels] == kinds


def test_a_traversal_shows_the_numbers_that_vary_most(images):
    model = tiny_model()
    (panel, _) = traversal_panels(model, images, slots=[1], dimensions=3)
    with torch.no_grad():
        spread = model.encode(images)[:, 1, 64:].std(dim=0)
    most = spread.argsort(descending=True)[:3] + 1
    assert panel.rows == [f"what {number}" for number in most]


def test_a_traversal_is_animated_there_and_back(images):
    frames = traversal_frames(traversal_panels(tiny_model(), images, slots=[0]))
    assert [frame.columns[0] for frame in frames] == [
        "-2 sd", "-1 sd", "0", "+1 sd", "+2 sd", "+1 sd", "0", "-1 sd",
    ]  # fmt: skip
    np.testing.assert_array_equal(frames[1].views, frames[7].views)
    assert frames[0].rows == ["slot 1", "mask 1"]


def test_a_swap_exchanges_one_slot_of_each_pair_and_nothing_else():
    latents = torch.arange(4.0)[:, None, None] * 10 + torch.arange(3.0)[:, None].expand(4, 3, 2)
    swapped = swap(latents, torch.tensor([2, 0, 1, 1]))
    assert swapped[..., 0].tolist() == [[0, 1, 10], [2, 11, 12], [20, 31, 22], [30, 21, 32]]
    np.testing.assert_array_equal(swap(swapped, torch.tensor([2, 0, 1, 1])), latents)


def test_two_scenes_that_are_equal_survive_a_swap(images):
    twins = images[:1].repeat(2, 1, 1, 1)
    (panel,) = swap_panels(tiny_model(), twins, (1, 1))
    assert list(panel.rows) == ["A, slot 2", "B, slot 2"]
    titles = list(panel.columns)
    before, after = titles.index("reconstruction"), titles.index("after")
    np.testing.assert_allclose(panel.views[:, before], panel.views[:, after], atol=1)


def test_the_foreground_is_the_largest_slot_that_keeps_off_the_border():
    model = tiny_model(num_slots=4)
    owner = torch.zeros(2, 32, 32, dtype=torch.int64)  # slot 1 is the background
    owner[0, 4:8, 4:8] = 1
    owner[0, 10:20, 10:20] = 2
    owner[0, 22:30, 4:30] = 3  # the largest, but what the others left
    owner[1, :, :10] = 1  # a wall
    one_hot = torch.nn.functional.one_hot(owner, 4).permute(0, 3, 1, 2)[:, :, None].float()
    output = Decomposition(one_hot.log(), torch.zeros(2, 4, 3, 32, 32), torch.zeros(2, 4, 80))
    assert foreground_slots(model, output) == [2, 0]  # in the second there is background only


def test_a_model_without_slots_can_not_swap(images):
    with pytest.raises(ValueError, match="at least 2 slots, but DcVae has 1"):
        swap_panels(DcVae(VAE).eval(), images)


def test_slots_are_counted_from_one(images):
    with pytest.raises(ValueError, match="slots go from 1 to 3, but got 4"):
        traversal_panels(tiny_model(), images, slots=[3])


def test_a_sheet_keeps_every_pixel_and_a_margin():
    views = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8, 3), dtype=np.uint8)
    panel = Panel(views, ["one", "two"], ["a", "b", "c"], heads=[("all", views[0, 0])])
    page = sheets.sheet([panel], scale=2)
    assert (page[:4] == 255).all()
    assert (page[:, :4] == 255).all()
    found = {tuple(pixel) for pixel in page.reshape(-1, 3).tolist()}
    assert {tuple(pixel) for pixel in views.reshape(-1, 3).tolist()} <= found
    head = 2 * sheets.GAP + sheets.LABEL  # where the large view begins, enlarged four times
    top = 2 * sheets.GAP + sheets.LABEL + sheets.BAR
    np.testing.assert_array_equal(page[top : top + 32 : 4, head : head + 32 : 4], views[0, 0])


def test_one_command_draws_everything_the_same_twice(checkpoint, tmp_path):
    flags = [
        "--checkpoint",
        str(checkpoint),
        "--rows",
        "2",
        "--scale",
        "1",
        "--gif",
        "--device",
        "cpu",
    ]
    written = figures.main([*flags, "--out", str(tmp_path / "a")])
    again = figures.main([*flags, "--out", str(tmp_path / "b")])
    kinds = ("decomposition", "generation", "traversal")
    expected = [f"tiny_{kind}.{suffix}" for kind in kinds for suffix in ("png", "gif")]
    assert [path.name for path in written] == [*expected, "tiny_swap.png"]
    for one, other in zip(written, again, strict=True):
        assert one.read_bytes() == other.read_bytes()
    with Image.open(tmp_path / "a" / "tiny_generation.gif") as animation:
        assert animation.n_frames == 1 + 3
        assert animation.info["loop"] == 0


def test_paper_stays_white_in_an_animation(tmp_path):
    frames = [np.full((32, 32, 3), level, np.uint8) for level in (251, 252)]
    for frame in frames:
        frame[:4] = 255
    sheets.write_gif(tmp_path / "a.gif", frames, [100, 200])
    with Image.open(tmp_path / "a.gif") as animation:
        for i, frame in enumerate(frames):
            animation.seek(i)
            shown = np.asarray(animation.convert("RGB"))
            assert (shown[:4] == 255).all()
            np.testing.assert_allclose(shown[4:], frame[4:], atol=2)


def test_another_seed_draws_other_samples(checkpoint, tmp_path):
    flags = ["--checkpoint", str(checkpoint), "--kind", "generation", "--out", str(tmp_path)]
    pictures = {figures.main([*flags, "--seed", seed])[0].read_bytes() for seed in "0011"}
    assert len(pictures) == 2


def test_the_mean_of_the_prior_follows_from_the_first_slot(checkpoint):
    model = tiny_model()
    noise = figures.prior_noise(model, 2, 0, mean=True)
    assert (noise[:, 0] != 0).all()
    assert (noise[:, 1:] == 0).all()


def test_files_are_cropped_to_their_middle_and_resized(checkpoint, tmp_path):
    frame = np.zeros((32, 96, 3), np.uint8)
    frame[:, 32:64] = (10, 20, 30)  # BGR, as OpenCV writes it
    cv2.imwrite(str(tmp_path / "wide.png"), frame)
    image = figures.read_image(tmp_path / "wide.png", 16)
    assert image.shape == (16, 16, 3)
    assert (image == (30, 20, 10)).all()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--images", "missing"], "no image file or folder missing"),
        (["--images", "{folder}"], "no PNG or JPEG file in"),
        (["--images", "{folder}/text.txt"], "text.txt is not a readable PNG or JPEG file"),
        (["--slot", "4", "--kind", "traversal"], "slots go from 1 to 3, but got 4"),
        (["--dataset", "nothing"], "unknown dataset 'nothing'"),
    ],
)
def test_mistakes_are_told_in_a_sentence(flags, message, checkpoint, tmp_path):
    (tmp_path / "text.txt").write_text("no image")
    flags = [flag.format(folder=tmp_path) for flag in flags]
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        figures.main(["--checkpoint", str(checkpoint), "--out", str(tmp_path), *flags])


def test_models_without_slots_are_drawn_as_far_as_it_makes_sense(tmp_path, capsys):
    folder = save_checkpoint(
        tmp_path / "vae", MODELS["dc_vae"](), metadata={"dataset": "multi_dsprites"}
    )
    flags = ["--checkpoint", str(folder), "--out", str(tmp_path), "--rows", "2", "--scale", "1"]
    assert len(figures.main(flags)) == 3
    assert "no swap: DcVae has one slot" in capsys.readouterr().out
    with pytest.raises(ValueError, match="at least 2 slots, but DcVae has 1"):
        figures.main([*flags, "--kind", "swap"])
