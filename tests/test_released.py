import pytest
import torch
from released_weights import fixture, released_state_dict

from genesis_rl import Genesis, load_released_checkpoint

SHAPES = fixture("genesis_K5_s11")["state_dict_shapes"]


def test_a_released_file_is_read_without_running_code(tmp_path):
    path = tmp_path / "model.ckpt-FINAL"
    torch.save({"model_state_dict": released_state_dict(SHAPES), "iter_idx": 3}, path)
    model = load_released_checkpoint(path)
    assert isinstance(model, Genesis)
    assert not model.training
    assert (model.num_slots, model.image_size, model.slot_dim) == (5, 64, 80)


def test_every_released_number_lands_in_the_model():
    state = released_state_dict(SHAPES)
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
