import torch

from envs.solids import SOLIDS, Camera, RoomStage, Solids, SolidScene, StackStage


def scenes(count, primitives=2):
    return SolidScene(
        Solids(
            kind=torch.arange(count * primitives).view(count, primitives) % len(SOLIDS),
            size=torch.ones(count, primitives, 3),
            position=torch.zeros(count, primitives, 3),
            rotation=torch.eye(3).expand(count, primitives, 3, 3),
            colour=torch.rand(count, primitives, 3),
            owner=torch.ones(count, primitives, dtype=torch.int64),
        ),
        StackStage(*(torch.arange(count) for _ in range(3))),
        Camera(torch.zeros(count, 3), torch.eye(3).expand(count, 3, 3), 45.0),
    )


def test_a_scene_has_as_many_rows_as_its_tensors():
    batch = scenes(5)
    assert len(batch) == len(batch.solids) == len(batch.stage) == len(batch.camera) == 5


def test_rows_of_a_scene_are_rows_of_all_its_parts():
    part = scenes(5)[1:3]
    assert len(part) == 2
    assert part.solids.kind.tolist() == [[2, 3], [4, 5]]
    assert part.stage.light.tolist() == [1, 2]
    assert part.camera.fovy == 45.0
    assert scenes(5)[torch.tensor([4, 0])].stage.wall.tolist() == [4, 0]


def test_moving_a_scene_moves_every_tensor_and_keeps_the_kind_of_stage():
    moved = scenes(1).to("meta")
    assert moved.solids.rotation.device.type == moved.camera.position.device.type == "meta"
    room = RoomStage(torch.zeros(1).long(), torch.zeros(1).long(), torch.zeros(1, 3)).to("meta")
    assert isinstance(room, RoomStage)
    assert room.light.device.type == "meta"
