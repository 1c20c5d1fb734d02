from types import SimpleNamespace

import pytest
import torch

from benchmarks.factors import ABSENT, only, read_labelled
from envs.rooms import draw_rooms
from plain_data import Plain, greys
from pretrain import data


def test_factors_of_multi_dsprites_are_those_that_can_be_seen():
    dataset = data.load("multi_dsprites", "val")
    rows = torch.arange(64)
    labelled, scenes = read_labelled(dataset, rows), dataset.scenes(rows)
    masks = dataset.batch(rows).masks
    assert len(labelled.names) == len(labelled.sizes) == labelled.labels.shape[1] == 15
    column = dict(zip(labelled.names, labelled.labels.unbind(1), strict=True))
    for k in range(len(rows)):
        seen = masks[k].unique()
        seen = seen[seen > 0]
        assert column["objects"][k] == len(seen)
        largest = max(seen.tolist(), key=lambda label: int((masks[k] == label).sum()))
        assert column["object shape"][k] == scenes.shape[k, largest - 1]
        assert 0.5 + column["object scale"][k] / 10 == pytest.approx(scenes.scale[k, largest - 1])
        for channel, hue in enumerate(("red", "green", "blue")):
            true = scenes.colour[k, largest - 1, channel] / 255 * 4
            assert column[f"object {hue}"][k] == round(float(true))
            true = scenes.background[k, channel] / 255 * 4
            assert column[f"background {hue}"][k] == round(float(true))
        shapes = sum(int(column[f"{name}s"][k]) for name in ("square", "ellipse", "heart"))
        assert shapes == len(seen)


def test_masks_alone_say_how_many_where_and_which_colour():
    images = torch.zeros(2, 8, 8, 3, dtype=torch.uint8)
    masks = torch.zeros(2, 8, 8, dtype=torch.uint8)
    masks[0, 6, 1:3], masks[0, 0, 0] = 2, 1
    images[0, 6, 1:3] = torch.tensor([255, 128, 0], dtype=torch.uint8)
    labelled = read_labelled(Plain(images, masks), torch.arange(2))
    rows = labelled.labels.tolist()
    first, second = (dict(zip(labelled.names, row, strict=True)) for row in rows)
    assert first["objects"] == 2
    assert (first["object x"], first["object y"]) == (2, 6)  # x is 2.0 / 8, y is 6.5 / 8
    assert [first[f"object {hue}"] for hue in ("red", "green", "blue")] == [4, 2, 0]
    assert second["objects"] == 0  # and so nothing is known about the largest
    assert second["background red"] == 0
    assert all(v == ABSENT for name, v in second.items() if name.startswith("object "))


def test_cameras_and_labels_are_used_where_there_are_some():
    dataset = Plain(greys(4))
    cameras = torch.tensor([[1, 0.1], [-0.1, 1], [0.1, 1], [1, -0.001]])  # x and y on a ring
    dataset.cameras = lambda rows: cameras[rows]
    labelled = read_labelled(dataset, torch.arange(4))
    assert labelled.names == ("camera angle",)
    # A quarter turn further the room looks the same.
    assert labelled.labels[:, 0].tolist() == [0, 0, 7, 7]
    names = "stability", "height", "view"
    towers = SimpleNamespace(**{name: torch.tensor([k]) for k, name in enumerate(names)})
    dataset.labels = lambda rows: towers
    del dataset.cameras
    labelled = read_labelled(dataset, torch.arange(1))
    assert labelled.names == names
    assert labelled.labels.tolist() == [[0, 1, 2]]


def test_the_nearest_object_of_a_room_is_what_the_camera_sees_first():
    dataset = Plain(greys(2))
    two = draw_rooms(0, torch.arange(2))
    rooms = two._replace(
        place=torch.tensor([[[1.4, 0], [-1.4, 0], [0, 0]]] * 2),
        present=torch.tensor([[True, True, False]] * 2),
        colour=torch.tensor([[[1.0, 0, 0], [0, 0, 1.0], [0, 1.0, 0]]] * 2),
    )
    dataset.cameras = lambda rows: torch.tensor([[1.0, 0, 0, 0, 0], [-1.0, 0, 0, 0, 0]])[rows]
    dataset.rooms = lambda rows: rooms
    labelled = read_labelled(dataset, torch.arange(2))
    column = dict(zip(labelled.names, labelled.labels.unbind(1), strict=True))
    assert column["nearest red"].tolist() == [4, 0]
    assert column["nearest blue"].tolist() == [0, 4]
    assert column["nearest shape"].tolist() == [rooms.shape[0, 0], rooms.shape[1, 1]]
    assert column["present"].tolist() == [2, 2]
    assert column["floor"].tolist() == rooms.floor.tolist()
    few = only(labelled, ("wall", "present"))
    assert (few.names, few.sizes[1]) == (("wall", "present"), 4)
    assert few.labels.tolist() == [[int(w), 2] for w in rooms.wall]
    with pytest.raises(ValueError, match="factors objects of the train split are not known here"):
        only(labelled, ("wall", "objects"))


def test_a_dataset_that_knows_nothing_is_named():
    with pytest.raises(ValueError, match="dataset 'plain' has no masks, labels or cameras"):
        read_labelled(Plain(greys(4)), torch.arange(4))
