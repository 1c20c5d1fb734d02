"""GQN records parsed in lockstep: the same as one by one, whatever their layout and damage."""

import random
import struct
from pathlib import Path

import numpy as np
import pytest

from benchmarks.reliability_files import corruptions
from pretrain.data import record_file, scenes
from pretrain.data.example import build_example
from pretrain.data.record_file import Block, RecordFile
from pretrain.data.scenes import parse_scenes
from pretrain.data.tfrecord import RecordError, write_records

COUNT = 40  # more than are parsed one by one


def content(number, views=3, most=300):
    """Frames of random lengths and the cameras of one scene."""
    rng = random.Random(number)
    frames = [rng.randbytes(rng.randrange(most)) for _ in range(views)]
    return frames, np.array([rng.gauss(0, 1) for _ in range(5 * views)], np.float32)


def payload(number, swapped=False, **options):
    frames, cameras = content(number, **options)
    features = {"cameras": cameras, "frames": frames}
    return build_example(dict(reversed(features.items())) if swapped else features)


@pytest.fixture
def write(tmp_path):
    def written(payloads):
        write_records(tmp_path / "a.tfrecord", payloads)
        return RecordFile(tmp_path / "a.tfrecord")

    return written


@pytest.fixture
def in_lockstep_only(monkeypatch):
    """Fails the test if any record is parsed by itself."""
    monkeypatch.setattr(scenes, "_one_by_one", lambda _: pytest.fail("not in lockstep"))


def block_of(file):
    (block,) = file.blocks(range(len(file)))
    return block


def assert_equal(found, first, numbers, **options):
    for k, number in enumerate(numbers):
        frames, cameras = content(number, **options)
        assert found.frames(first + k) == frames
        start, stop = found.first[first + k : first + k + 2]
        np.testing.assert_array_equal(found.cameras[start:stop].ravel(), cameras)


@pytest.mark.parametrize("most", [20, 300, 20_000])  # lengths of one, two and three bytes
def test_both_orders_of_the_features_are_read_in_lockstep(write, in_lockstep_only, most):
    file = write([payload(k, swapped=k % 3 == 1, most=most) for k in range(COUNT)])
    assert_equal(parse_scenes(block_of(file)), 0, range(COUNT), most=most)


def test_a_file_comes_in_blocks_of_neighbours(write, monkeypatch):
    file = write([payload(k) for k in range(COUNT)])
    monkeypatch.setattr(record_file, "_BLOCK", 2000)
    blocks = list(file.blocks(range(COUNT)))
    assert len(blocks) > 3
    assert np.concatenate([block.numbers for block in blocks]).tolist() == list(range(COUNT))
    for block in blocks:
        assert_equal(parse_scenes(block), 0, block.numbers.tolist())
    apart = list(file.blocks([7, 3, 4, 4]))
    assert [block.numbers.tolist() for block in apart] == [[7], [3, 4], [4]]
    assert list(file.blocks([])) == []


def with_unpacked_cameras(number):
    frames, cameras = content(number, most=40)
    floats = b"".join(b"\x0d" + struct.pack("<f", value) for value in cameras)

    def chunk(tag, body):
        return bytes([tag, len(body) & 0x7F | 0x80, len(body) >> 7]) + body

    poses = chunk(0x0A, b"\n\x07cameras" + chunk(0x12, chunk(0x12, floats)))
    pictures = b"".join(chunk(0x0A, frame) for frame in frames)
    return chunk(0x0A, poses + chunk(0x0A, b"\n\x06frames" + chunk(0x12, chunk(0x0A, pictures))))


def test_a_record_of_another_layout_is_read_too(write):
    frames, cameras = content(5, most=40)
    extra = build_example({"new": [b"x"], "cameras": cameras, "frames": frames})
    plain = [payload(k, most=40) for k in range(COUNT)]
    for odd in (extra, with_unpacked_cameras(5), plain[5] + b"\x10\x07"):
        plain[5] = odd
        assert_equal(parse_scenes(block_of(write(plain))), 0, range(COUNT), most=40)


def test_scenes_of_different_numbers_of_views_are_read(write):
    file = write([payload(k, views=1 + k % 4) for k in range(COUNT)])
    found = parse_scenes(block_of(file))
    assert [found.count(k) for k in range(4)] == [1, 2, 3, 4]
    for k in range(COUNT):
        assert_equal(found, k, [k], views=1 + k % 4)


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ({"frames": [b"x"]}, "needs frames and cameras, but has frames"),
        ({"frames": [b"x"] * 3, "cameras": np.zeros(14, "f4")}, "3 frames need five float32 each"),
        ({"frames": [], "cameras": np.zeros(0, "f4")}, "0 frames need"),
    ],
)
def test_a_record_that_is_no_scene_is_named_among_its_neighbours(write, example, message):
    payloads = [payload(k) for k in range(COUNT)]
    payloads[7] = build_example(example)
    with pytest.raises(ValueError, match=rf"a\.tfrecord: record 7: .*{message}"):
        parse_scenes(block_of(write(payloads)))


def in_memory(payloads):
    data = np.frombuffer(b"".join(payloads) + bytes(4), np.uint8)  # a checksum follows the last
    ends = np.cumsum([0, *map(len, payloads)])
    return Block(Path("a"), np.arange(len(payloads)), data, ends[:-1], ends[1:])


def outcome(parse, block):
    try:
        found = parse(block)
    except ValueError as error:
        return str(error)
    return found.first.tolist(), found.spans.tolist(), found.cameras.tobytes()


def test_broken_messages_give_what_the_general_parser_gives(monkeypatch):
    """With sound checksums: what a hostile writer could make."""
    monkeypatch.setattr(scenes, "_FEW", 1)
    rng, refused, trials = random.Random(3), 0, 800
    sound = [payload(k, views=2, most=40) for k in range(3)]
    for _ in range(trials):
        bad = bytearray(rng.choice(sound))
        for _ in range(rng.randrange(1, 4)):
            bad[rng.randrange(min(len(bad), 90))] = rng.choice([0, 1, 10, 18, 127, 128, 255])
        block = in_memory([sound[0], bytes(bad), sound[2]])
        found = outcome(parse_scenes, block)
        assert found == outcome(scenes._one_by_one, block)
        refused += isinstance(found, str)
    assert trials / 5 < refused < trials * 4 / 5


def test_two_thousand_corruptions_give_no_wrong_scene(write, monkeypatch):
    monkeypatch.setattr(scenes, "_FEW", 3)
    file = write([payload(k, most=60) for k in range(6)])
    data, boundaries = file.path.read_bytes(), {0, *file.spans.ravel().tolist()}
    copy, silent = file.path.with_name("copy"), 0
    for bad in corruptions(data, 2000):
        copy.write_bytes(bad)
        damaged, named = RecordFile(copy), ""
        try:
            for block in damaged.blocks(range(len(damaged))):
                assert_equal(parse_scenes(block), 0, block.numbers.tolist(), most=60)
        except RecordError as error:
            named = str(error)
        if not named.startswith(f"{copy}: record "):
            assert len(bad) in boundaries  # cut between two records: only a count can tell
            silent += 1
    assert silent < 20
