import json

import pytest
import torch

from benchmarks import speed_rows, throughput, timing

CPU = torch.device("cpu")


def test_flops_of_a_matrix_product_are_counted_exactly():
    layer = torch.nn.Linear(30, 20, bias=False)
    assert timing.count_flops(lambda: layer(torch.zeros(10, 30))) == 2 * 10 * 20 * 30


def test_flops_of_the_lean_encoder_are_the_specified_ones():
    from genesis_rl import Genesis

    model, images = Genesis().eval(), torch.zeros(1, 3, 64, 64)
    assert timing.count_flops(lambda: model.encode(images)) / 1e9 == pytest.approx(3.80, abs=0.005)


def test_a_round_is_as_long_as_its_calls(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def call():
        now[0] += 0.25  # a quarter of a second, on a clock that we own

    clock = timing.time_calls(call, CPU, seconds=10, rounds=3)
    assert clock == timing.Timing(latency=0.25, interval=0.25)


def test_the_share_of_the_floor_is_arithmetic():
    # 4 images of 3 GFLOP in 2 s, in which the device could have done 24 TFLOP.
    clock = timing.AgainstPeak(timing.Timing(2.5, 2.0), peak=12e12, forgone=24e12, memory_mb=300.0)
    row = {
        **speed_rows.speed_row("encode", 4, "fp32", CPU, 2.0),
        **speed_rows.floor_of(clock, 3 * 10**9, 4),
    }
    assert row["per_second"] == 2.0
    assert row["ms"] == 2000.0
    assert row["latency_ms"] == 2500.0
    assert row["gflop"] == 3.0
    assert row["peak_memory_mb"] == 300.0
    assert row["of_floor"] == pytest.approx(0.0005)
    assert (
        speed_rows.speed_row("train", 32, "fp32", CPU, 0.5)["per_second"] == 2.0
    )  # steps, not images
    assert len(throughput.table([row])) == 2


def test_the_peak_is_measured_in_turns_with_the_call():
    a = torch.randn(128, 128)
    clock = timing.time_against_peak(lambda: a @ a, CPU, "fp32", seconds=0.1, side=128)
    assert clock.peak > 0
    assert clock.forgone > 0
    assert timing.peak_memory_mb(CPU) > 1


def test_environments_are_timed_alone_and_together():
    rows = throughput.env_rows("GenesisRL/SpriteGoal-v0", [1, 4], CPU, 0.05)
    named = [(row["what"], row["batch"]) for row in rows]
    assert named == [("single env", 1), ("env", 1), ("env", 4)]
    assert all(row["per_second"] > 0 for row in rows)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    from genesis_rl import Genesis, GenesisConfig, save_checkpoint

    model = Genesis(GenesisConfig(num_slots=3, image_size=32, width=4))
    return str(save_checkpoint(tmp_path_factory.mktemp("weights") / "tiny", model))


def test_the_command_prints_a_table_and_a_line(checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(timing, "MATRIX_SIDE", {"cpu": 64})
    argv = ["--what", "encode", "loop", "wrapper", "--checkpoint", checkpoint]
    argv += ["--batches", "1", "2", "--envs", "3"]
    argv += ["--device", "cpu", "--seconds", "0.05", "--results-dir", str(tmp_path)]
    throughput.main(argv)
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [(row["what"], row["batch"]) for row in line["rows"]] == [
        ("encode", 1),
        ("encode", 2),
        ("loop", 3),
        ("wrapper", 1),
    ]
    assert all(row["of_floor"] > 0 for row in line["rows"][:2])
    assert line["rows"][3]["bare_ms"] > 0
    assert (tmp_path / "throughput.jsonl").exists()


def test_frames_can_come_from_main_memory_and_latents_go_there(checkpoint):
    row = throughput.encode_row(checkpoint, 2, CPU, "fp32", 0.05, host=True)
    assert (row["what"], row["batch"]) == ("encode host", 2)
    assert row["per_second"] > 0


def test_precision_auto_is_what_the_device_is_good_at():
    assert speed_rows.resolve_precision("auto", CPU) == "fp32"
    assert speed_rows.resolve_precision("auto", torch.device("cuda")) == "bf16"
    assert speed_rows.resolve_precision("tf32", torch.device("cuda")) == "tf32"
