import pytest
import torch

from genesis_rl import Genesis, load_released_checkpoint
from released_weights import fixture, released_state_dict

SHAPES = fixture("genesis_K5_s11")["state_dict_shapes"]
OTHERS = ["genesis_s_K5_s12", "monet_K5_s13", "dc_vae_K1_s14", "bd_vae_K1_s15"]


def test_a_released_file_is_read_without_running_code(tmp_path):
    path = tmp_path / "model.ckpt-FINAL"
    torch.save({"model_state_dict": released_state_dict(SHAPES), "iter_idx": 3}, path)
    model = load_released_checkpoint(path)
    assert isinstance(model, Genesis)
    assert not model.training
    assert (model.num_slots, model.image_size, model.slot_dim) == (5, 64, 80)


@pytest.mark.parametrize("name", ["genesis_K5_s11", *OTHERS])
def test_every_released_number_lands_in_the_model(name: str):
    state = released_state_dict(fixture(name)["state_dict_shapes"])
    ours = load_released_checkpoint(state).state_dict()
    count = {name: value.numel() for name, value in state.items() if name != "std"}
    shared = sum(name.endswith("g_norm.num_batches_tracked") for name in count)
    assert sum(value.numel() for value in ours.values()) == sum(count.values()) - shared


def test_two_standard_deviations_are_carried_over():
    state = released_state_dict(SHAPES)
    state["std"] = torch.tensor([0.09, 0.11, 0.11, 0.11, 0.11]).view(1, 1, 1, 1, 5)
    model = load_released_checkpoint(state)
    torch.testing.assert_close(model.stds, torch.tensor([0.09, 0.11, 0.11, 0.11, 0.11]))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no released checkpoint at .*nowhere"):
        load_released_checkpoint(tmp_path / "nowhere")


def test_a_file_of_something_else_is_refused_by_name(tmp_path):
    (tmp_path / "notes.txt").write_text("not weights")
    with pytest.raises(
        ValueError, match=r"notes\.txt cannot be read as weights .*that the release"
    ):
        load_released_checkpoint(tmp_path / "notes.txt")


def test_a_file_of_another_model_is_refused_with_the_entry_it_lacks():
    state = released_state_dict(SHAPES)
    del state["prior_mlp.2.weight"], state["prior_mlp.2.bias"]
    with pytest.raises(ValueError, match=r"it lacks .*prior_mlp"):
        load_released_checkpoint(state)


def test_weights_of_another_shape_are_refused():
    state = released_state_dict(SHAPES)
    state["prior_mlp.2.weight"] = torch.zeros(3, 3)
    with pytest.raises(ValueError, match="another architecture"):
        load_released_checkpoint(state)


@pytest.mark.parametrize("name", OTHERS)
def test_a_missing_entry_is_named_whichever_model_it_is(name: str):
    state = released_state_dict(fixture(name)["state_dict_shapes"])
    gone = "prior_linear" if "prior_linear.weight" in state else next(reversed(state))
    state = {key: value for key, value in state.items() if not key.startswith(gone.split(".")[0])}
    with pytest.raises(ValueError, match="it lacks"):
        load_released_checkpoint(state)


@pytest.mark.parametrize("content", [{}, {"model_state_dict": {}}, {"weight": torch.zeros(1)}])
def test_weights_of_no_known_model_are_refused(content: dict):
    with pytest.raises(ValueError, match=r"it lacks .*comp_vae"):
        load_released_checkpoint(content)


@pytest.mark.parametrize("name", ["genesis_s_K5_s12", "dc_vae_K1_s14", "bd_vae_K1_s15"])
def test_shapes_that_two_image_sizes_share_take_the_caller_s_word(name: str):
    state = released_state_dict(fixture(name)["state_dict_shapes"])
    assert load_released_checkpoint(state).image_size == 64
    assert load_released_checkpoint(state, image_size=128).image_size == 128
    with pytest.raises(ValueError, match=r"image_size 32 was asked for, .* is for 64 or 128"):
        load_released_checkpoint(state, image_size=32)


def test_an_image_size_that_the_weights_contradict_is_refused():
    with pytest.raises(ValueError, match=r"image_size 128 was asked for, .* is for 64"):
        load_released_checkpoint(released_state_dict(SHAPES), image_size=128)
