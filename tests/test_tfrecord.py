"""TFRecord framing and Example messages: checksums, damage, and what other writers may produce."""

import gzip
import os
import random
import struct

import google_crc32c
import numpy as np
import pytest

from benchmarks.reliability_files import corruptions, delivered
from pretrain.data.example import BytesList, build_example, parse_example
from pretrain.data.record_file import RecordFile
from pretrain.data.tfrecord import (
    Losses,
    RecordError,
    frame_record,
    masked_crc32c,
    read_records,
    write_records,
)

HELLO = bytes.fromhex("0500000000000000 eab2043e 68656c6c6f bb1f1c19")


def payloads(count=20):
    rng = random.Random(0)
    return [rng.randbytes(rng.randrange(60)) for _ in range(count)]


@pytest.fixture
def path(tmp_path):
    write_records(tmp_path / "a.tfrecord", payloads())
    return tmp_path / "a.tfrecord"


def damaged(path, change, name="damaged.tfrecord"):
    data = bytearray(path.read_bytes())
    data = change(data) or data
    copy = path.with_name(name)
    copy.write_bytes(data)
    return copy


def flip(position, bit=0):
    def change(data):
        data[position] ^= 1 << bit

    return change


def test_the_published_test_vectors():
    assert google_crc32c.value(b"123456789") == 0xE3069283
    assert masked_crc32c(b"123456789") == 0xC78AB0E5
    assert frame_record(b"hello") == HELLO


def test_a_written_file_is_read_back_byte_for_byte(path):
    assert [record.payload for record in read_records(path)] == payloads()
    file = RecordFile(path)
    assert list(file.read([7, 3, 7])) == [payloads()[k] for k in (7, 3, 7)]
    summary = write_records(path.with_name("again"), (r.payload for r in read_records(path)))
    assert path.with_name("again").read_bytes() == path.read_bytes()
    assert summary.records == len(file) == 20
    assert summary.bytes == path.stat().st_size


def test_a_file_that_was_not_finished_does_not_appear(tmp_path):
    def broken():
        yield b"one"
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_records(tmp_path / "a.tfrecord", broken())
    assert os.listdir(tmp_path) == []


def test_gzip_is_recognised(path):
    zipped = path.with_name("zipped.tfrecord")
    zipped.write_bytes(gzip.compress(path.read_bytes()))
    assert [record.payload for record in read_records(zipped)] == payloads()


def test_a_length_that_looks_like_gzip_is_a_length(tmp_path):
    write_records(tmp_path / "a", [bytes(0x8B1F)])
    assert (tmp_path / "a").read_bytes()[:2] == b"\x1f\x8b"
    assert len(next(read_records(tmp_path / "a")).payload) == 0x8B1F


@pytest.mark.parametrize("where", ["length", "payload"])
def test_a_flipped_byte_is_named_by_file_record_and_offset(path, where):
    offset = int(RecordFile(path).offsets[3])
    copy = damaged(path, flip(offset + (2 if where == "length" else 12)))
    message = f"damaged.tfrecord: record 3 at byte {offset}: its {where} does not match"
    with pytest.raises(RecordError, match=message):
        list(read_records(copy))
    with pytest.raises(RecordError, match=message):
        list(RecordFile(copy).read(range(4)))


def test_random_access_reads_past_a_damaged_payload_elsewhere(path):
    copy = damaged(path, flip(int(RecordFile(path).offsets[3]) + 12))
    assert next(RecordFile(copy).read([5])) == payloads()[5]


@pytest.mark.parametrize("length", [1 << 62, 1 << 27, 5000])
def test_a_hostile_length_is_refused_before_anything_is_allocated(tmp_path, length):
    header = struct.pack("<Q", length)
    (tmp_path / "a").write_bytes(header + struct.pack("<I", masked_crc32c(header)) + bytes(100))
    with pytest.raises(RecordError, match=f"record 0 at byte 0: it announces {length} bytes"):
        list(read_records(tmp_path / "a"))
    with pytest.raises(RecordError, match=f"it announces {length} bytes"):
        len(RecordFile(tmp_path / "a"))


def test_ten_thousand_corruptions_deliver_no_wrong_record(path):
    sound, data = payloads(), path.read_bytes()
    boundaries = {0, *RecordFile(path).offsets.tolist()}
    copy, undetectable = path.with_name("copy"), 0
    for bad in corruptions(data, 10_000):
        if bad == data:
            continue
        copy.write_bytes(bad)
        seen, error = delivered(copy)
        if error is None:
            assert len(bad) in boundaries  # cut between two records: only a count can tell
            undetectable += 1
        else:
            assert error.number == len(seen)
            assert str(copy) in str(error)
        assert seen == sound[: len(seen)]
    assert undetectable < 200


@pytest.mark.parametrize("cut", [30, 200, 400])
def test_a_damaged_gzip_stream_is_named(path, cut):
    zipped = gzip.compress(path.read_bytes())
    copy = path.with_name("cut.gz")
    copy.write_bytes(zipped[:cut])
    with pytest.raises(RecordError, match=r"cut.gz: record \d+ at byte"):
        list(read_records(copy))
    broken = bytearray(zipped)
    broken[cut] ^= 0xFF
    copy.write_bytes(broken)
    seen = []
    with pytest.raises(RecordError):
        seen.extend(record.payload for record in read_records(copy))
    assert seen == payloads()[: len(seen)]


@pytest.mark.parametrize("where", [2, 12])  # within the length, within the payload
def test_skipping_leaves_out_the_damaged_record_and_no_other(tmp_path, where):
    many = [struct.pack("<I", k) * 10 for k in range(2000)]
    write_records(tmp_path / "a", many)
    offset = int(RecordFile(tmp_path / "a").offsets[3])
    copy = damaged(tmp_path / "a", flip(offset + where))
    losses = Losses("skip")
    with pytest.warns(UserWarning, match="1 of 2000 records are damaged and left out"):
        assert len(RecordFile(copy, losses)) == 1999
    assert losses.lost == 1
    with pytest.warns(UserWarning, match="1 of 2000"):
        assert list(RecordFile(copy, losses).read([2, 3])) == [many[2], many[4]]


def test_skipping_stops_above_a_thousandth(path):
    copy = damaged(path, flip(int(RecordFile(path).offsets[3]) + 12))
    with pytest.raises(ValueError, match=r"record 3 at byte .* damaged records: 1, more"):
        list(read_records(copy, Losses("skip")))
    with pytest.raises(ValueError, match=r"damaged records: 1, more than 0\.1% of 20"):
        len(RecordFile(copy, Losses("skip")))


def test_skipping_stops_early_when_everything_is_damaged(tmp_path):
    write_records(tmp_path / "a", [b"sound"] * 100)
    data = bytearray((tmp_path / "a").read_bytes())
    data[12 :: len(data) // 100] = bytes(100)
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(ValueError, match=r"damaged records: 6, more than 0\.1% of 5000"):
        next(read_records(tmp_path / "a", Losses("skip")))


# --- tf.train.Example ---------------------------------------------------------------------------


def example_message():
    """The message class as protobuf itself builds it: an independent writer and reader."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="e.proto", package="t", syntax="proto3")
    field = descriptor_pb2.FieldDescriptorProto
    for name, kind in (("B", field.TYPE_BYTES), ("F", field.TYPE_FLOAT), ("I", field.TYPE_INT64)):
        message = file.message_type.add(name=name)
        message.field.add(name="value", number=1, type=kind, label=field.LABEL_REPEATED)
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, name in enumerate("BFI", 1):
        feature.field.add(
            name=name.lower(),
            number=number,
            type=field.TYPE_MESSAGE,
            type_name=f".t.{name}",
            oneof_index=0,
            label=field.LABEL_OPTIONAL,
        )
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    entry.field.add(
        name="value",
        number=2,
        type=field.TYPE_MESSAGE,
        type_name=".t.Feature",
        label=field.LABEL_OPTIONAL,
    )
    features.field.add(
        name="feature",
        number=1,
        type=field.TYPE_MESSAGE,
        type_name=".t.Features.FeatureEntry",
        label=field.LABEL_REPEATED,
    )
    example = file.message_type.add(name="Example")
    example.field.add(
        name="features",
        number=1,
        type=field.TYPE_MESSAGE,
        type_name=".t.Features",
        label=field.LABEL_OPTIONAL,
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Example"))


CAMERAS = np.linspace(-3, 3, 50, dtype=np.float32)
FRAMES = [bytes([k]) * (120 + k * 300) for k in range(10)]


def check(data):
    features = parse_example(data)
    assert features["frames"].values() == FRAMES
    np.testing.assert_array_equal(features["cameras"], CAMERAS)
    assert features["cameras"].dtype == np.float32


@pytest.mark.parametrize("order", [("cameras", "frames"), ("frames", "cameras")])
def test_both_orders_of_features(order):
    values = {"cameras": CAMERAS, "frames": FRAMES}
    check(build_example({name: values[name] for name in order}))


def test_the_entry_of_cameras_has_the_published_bytes():
    data = build_example({"cameras": CAMERAS, "frames": FRAMES})
    entry = b"\x0a\xda\x01\x0a\x07cameras\x12\xce\x01\x12\xcb\x01\x0a\xc8\x01" + CAMERAS.tobytes()
    assert data.find(entry) in (2, 3, 4, 5)


def test_unpacked_floats_and_unknown_parts():
    def chunk(tag, body):
        size = len(body)
        assert size < 1 << 14
        return (
            bytes([tag])
            + (bytes([size]) if size < 128 else bytes([size & 127 | 128, size >> 7]))
            + body
        )

    floats = b"".join(b"\x0d" + struct.pack("<f", value) for value in CAMERAS)
    cameras = chunk(0x0A, b"cameras") + chunk(0x12, chunk(0x12, floats))
    unknown = chunk(0x0A, b"new") + chunk(0x12, chunk(0x3A, b"another kind"))
    backwards = chunk(0x12, chunk(0x1A, b"\x08\x05")) + chunk(0x0A, b"value first")
    inner = chunk(0x0A, cameras) + chunk(0x0A, unknown) + chunk(0x0A, backwards) + b"\x20\x07"
    features = parse_example(chunk(0x0A, inner) + b"\x31" + bytes(8))
    np.testing.assert_array_equal(features["cameras"], CAMERAS)
    assert features["value first"].tolist() == [5]
    assert set(features) == {"cameras", "value first"}


def test_agrees_with_protobuf_in_both_directions():
    message = example_message()()
    message.features.feature["cameras"].f.value.extend(CAMERAS.tolist())
    message.features.feature["frames"].b.value.extend(FRAMES)
    message.features.feature["number"].i.value.extend([-1, 0, 1 << 40])
    message.features.feature["empty"].b.SetInParent()
    data = message.SerializeToString()
    check(data)
    assert parse_example(data)["number"].tolist() == [-1, 0, 1 << 40]
    assert parse_example(data)["empty"].values() == []

    ours = build_example({"frames": FRAMES, "cameras": CAMERAS, "number": np.array([-1, 1 << 40])})
    theirs = example_message().FromString(ours)
    assert list(theirs.features.feature["frames"].b.value) == FRAMES
    assert list(theirs.features.feature["cameras"].f.value) == CAMERAS.tolist()
    assert list(theirs.features.feature["number"].i.value) == [-1, 1 << 40]


def test_one_byte_values_with_zeros_come_back_by_both_ways():
    pixels = np.arange(600, dtype=np.uint8) % 7
    data = build_example({"image": [bytes([p]) for p in pixels], "other": [b"ab", b"\0"]})
    image = parse_example(data)["image"]
    np.testing.assert_array_equal(image.octets(), pixels)
    assert image.values() == [bytes([p]) for p in pixels]

    slow = b"".join(b"\x0a\x81\x00" + bytes([p]) for p in pixels)  # lengths of two bytes: generic
    np.testing.assert_array_equal(BytesList(slow, 0, len(slow)).octets(), pixels)
    with pytest.raises(ValueError, match="one byte"):
        parse_example(data)["other"].octets()


def test_no_message_however_broken_does_more_than_raise_value_error():
    data, rng = build_example({"cameras": CAMERAS, "frames": FRAMES[:2]}), random.Random(2)
    for _ in range(3000):
        bad = bytearray(data[: rng.randrange(len(data) + 1)])
        for _ in range(rng.randrange(4)):
            if bad:
                bad[rng.randrange(len(bad))] = rng.randrange(256)
        try:
            for feature in parse_example(bytes(bad)).values():
                if isinstance(feature, BytesList):
                    feature.values()
        except ValueError:
            pass
