import json

import pytest

from benchmarks import report
from benchmarks.common import append_line

ORIGIN = {
    "device": "NVIDIA H200",
    "commit": "abc123",
    "seed": 0,
    "date": "2026-01-02T03:04:05+00:00",
    "versions": {},
}


def segmentation_line(ari):
    scores = {name: {"mean": ari, "std": 0.1} for name in ("ari_fg", "ari", "sc", "msc")}
    return {
        "checkpoint": "multi_dsprites",
        "dataset": "multi_dsprites",
        "split": "test",
        "latents": "means",
        "images": 320,
        **scores,
        "error_per_element": {"mean": 0.5655, "std": 0.001},
        "one_slot": dict.fromkeys(scores, 0.25),
        "command": "python -m benchmarks.segmentation",
        **ORIGIN,
    }


def rl_line(name, seed, success):
    return {
        "env_id": "GenesisRL/SpriteGoal-v0",
        "representation": name,
        "latents": "both",
        "normalise": False,
        "steps": 1000,
        "final": {"success": success, "return": success},
        "random": {"success": 0.34},
        "frames_per_s": 5000.0,
        "training_s": 100.0,
        "command": f"python -m benchmarks.rl --seeds {seed}",
        **ORIGIN,
        "seed": seed,
    }


def speed_line(batch, per_second):
    row = {
        "what": "encode",
        "device": "cuda",
        "batch": batch,
        "dtype": "bf16",
        "per_second": per_second,
        "latency_ms": 0.4,
        "of_floor": 0.5,
    }
    return {"rows": [row], "slots": 5, "command": "python -m benchmarks.throughput", **ORIGIN}


def row_of(text, *words):
    (row,) = [line for line in text.splitlines() if all(word in line for word in words)]
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_without_results_every_cell_says_how_to_fill_it(tmp_path):
    text = report.render(tmp_path)
    for name in ("segmentation", "rl", "training_speed --device cuda --slots 9", "loading"):
        assert f"    python -m benchmarks.{name}" in text
    assert row_of(text, "encode, K=5", "cuda", "1024")[4] == ""


def test_the_newest_line_of_each_kind_is_shown_with_its_origin(tmp_path):
    for ari in (0.1, 0.8):
        append_line(tmp_path / "segmentation.jsonl", segmentation_line(ari))
    for speed in (1.0, 45_678.0):
        append_line(tmp_path / "throughput.jsonl", speed_line(1024, speed))
    text = report.render(tmp_path)
    row = row_of(text, "320 test images")
    assert row[1] == "0.800 +- 0.100"
    assert row[-1] == "NVIDIA H200, `abc123`, seed 0, 2026-01-02"
    assert "0.100 +- 0.100" not in text
    assert row_of(text, "encode, K=5", "1024")[4] == "45,678"
    assert "    python -m benchmarks.segmentation\n" in text


def test_two_environments_have_a_row_each(tmp_path):
    for env, speed in (("SpriteGoal", 5000.0), ("RoomReach", 300.0)):
        row = {"what": "env", "device": "cpu", "batch": 1, "dtype": "uint8", "per_second": speed}
        vector_of_one = row | {"per_second": 1.0}  # not what is asked for
        line = speed_line(1024, 1.0) | {"env_id": f"GenesisRL/{env}-v0"}
        line["rows"] = [row, vector_of_one]
        append_line(tmp_path / "throughput.jsonl", line)
    text = report.render(tmp_path)
    assert row_of(text, "SpriteGoal", "cpu", "1,500 (bar)")[4] == "5,000"
    assert row_of(text, "RoomReach", "cpu", "100 (bar)")[4] == "300"
    assert "--what env --env-id GenesisRL/StackTower-v0 --envs 1\n" in text  # not measured yet


def test_a_vector_of_one_and_frames_in_main_memory_have_names_of_their_own(tmp_path):
    row = {"device": "cuda", "dtype": "bf16", "latency_ms": 0.3, "of_floor": 0.1}
    rows = [
        row | {"what": "encode", "batch": 64, "per_second": 9_000.0},
        row | {"what": "encode host", "batch": 64, "per_second": 8_000.0},
        row | {"what": "single env", "batch": 1, "per_second": 5_000.0, "device": "cpu"},
        row | {"what": "env", "batch": 1, "per_second": 1.0, "device": "cpu"},
        row | {"what": "env", "batch": 64, "per_second": 16_000.0, "device": "cpu"},
    ]
    append_line(tmp_path / "throughput.jsonl", speed_line(1, 1.0) | {"rows": rows})
    text = report.render(tmp_path)
    assert row_of(text, "encode, K=5", "cuda", "| 64 |")[4] == "9,000"
    assert row_of(text, "host memory to host memory, K=5", "| 64 |")[4:7] == [
        "0.300",
        "latency ms",
        "1.20 (bar)",
    ]
    assert row_of(text, "SpriteGoal", "1,500 (bar)")[4] == "5,000"
    assert row_of(text, "SpriteGoal, vectorised", "| 64 |")[4] == "16,000"
    assert "--what env --env-id GenesisRL/RoomReach-v0 --envs 4096\n" in text


def test_training_with_and_without_own_kernels_is_told_apart(tmp_path):
    row = {"what": "train", "device": "cuda", "batch": 32, "dtype": "bf16", "slots": 5}
    row |= {"of_floor": 0.1, "preparation_s": 48.2}
    rows = [row | {"fused": fused, "per_second": 100.0 * (1 + fused)} for fused in (False, True)]
    rows.append(row | {"model": "dc_vae", "slots": 1, "fused": True, "per_second": 700.0})
    line = {"rows": rows, "command": "python -m benchmarks.training_speed", **ORIGIN}
    append_line(tmp_path / "training_speed.jsonl", line)
    text = report.render(tmp_path)
    assert row_of(text, "DC-VAE, K = 1", "own")[2:5] == ["700.0", "22,400", "600 (bar)"]
    assert "--slots 7 --models genesis_s monet bd_vae" in text
    assert row_of(text, "GENESIS, K = 5, batch 32", "compiled")[2:4] == ["100.0", "3,200"]
    assert row_of(text, "K = 5, batch 32", "own")[2:4] == ["200.0", "6,400"]
    assert "--slots 5 --fused off on" not in text  # has been measured
    assert "--slots 7 --fused off on" in text


def test_the_first_reading_of_a_dataset_has_no_bar(tmp_path):
    ways = ("compact form, first time", "compact form, again")
    rows = [{"what": way, "images_per_s": 30_000.0} for way in ways]
    line = {"rows": rows, "dataset": "gqn", "command": "python -m benchmarks.loading", **ORIGIN}
    append_line(tmp_path / "loading.jsonl", line)
    text = report.render(tmp_path)
    assert row_of(text, "first time")[1:3] == ["30,000", ""]
    assert row_of(text, "again")[1:3] == ["30,000", "20,000 (bar)"]


def test_pictures_by_kernels_and_by_plain_torch_are_told_apart(tmp_path):
    row = {"stage": "stack", "scenes": 1024, "samples": 2}
    rows = [row | {"fused": fused, "per_second": 1e4 * (1 + fused)} for fused in (False, True)]
    append_line(tmp_path / "render.jsonl", {"rows": rows, "command": "render", **ORIGIN})
    text = report.render(tmp_path)
    assert row_of(text, "| stack", "cuda, fused", "2 x 2")[4] == "20,000"
    assert row_of(text, "| stack", "| cuda |", "2 x 2")[4] == "10,000"


def test_checkpoints_of_one_model_are_averaged(tmp_path):
    for name, ari in (("a", 0.2), ("b", 0.4)):
        line = segmentation_line(ari) | {"checkpoint": name, "model": "monet"}
        line |= {"mse": line["ari"]}
        append_line(tmp_path / "segmentation.jsonl", line)
    row = row_of(report.render(tmp_path), "MONet, 2 models")
    assert row[1:6] == ["0.300 +- 0.100"] * 4 + ["0.5655"]


def test_probes_stand_beside_the_paper_and_genuine_frames_apart(tmp_path):
    for genuine, height in ((False, 0.8), (True, 0.5)):
        score = {"accuracy": height, "std": 0.01, "interval_95": [height - 0.1, height + 0.1]}
        row = {"model": "genesis", "checkpoint": "towers", "num_slots": 9, "latents": "mean"}
        row |= {"tasks": {"height": score}}
        line = {"source": "files", "genuine": genuine, "rows": [row], "command": f"{genuine}"}
        append_line(tmp_path / "probe_shapestacks.jsonl", line | ORIGIN)
    text, genuine = report.render(tmp_path).split("## Probes on genuine frames")
    assert row_of(text, "GENESIS towers")[3:5] == ["80.0 +-1.0 (70.0-90.0)", "80.3"]
    assert row_of(genuine.split("## Sample")[0], "GENESIS towers")[3] == "50.0 +-1.0 (40.0-60.0)"
    assert row_of(text, "MONet", "88.4")[3] == ""


def test_a_distance_that_is_no_fid_is_kept_out_of_its_column(tmp_path):
    line = {
        "metric": "Frechet distance (factor features)",
        "checkpoint": "sprites",
        "dataset": "multi_dsprites",
        "model": "genesis",
        "sampler": "as trained",
        "images": 10_000,
        "distance": {"mean": 3.0, "std": 0.5},
        "controls": {"test against val": 0.01},
        "command": "python -m benchmarks.fid",
        **ORIGIN,
        "seed": [0, 1],
    }
    append_line(tmp_path / "fid.jsonl", line)
    text = report.render(tmp_path)
    assert row_of(text, "`sprites`")[1:4] == ["24.9", "", "3.00 +- 0.50"]
    assert row_of(text, "test against val")[3] == "0.01"
    append_line(tmp_path / "fid.jsonl", line | {"metric": "FID"})
    (fid_row,) = [
        r
        for r in report.render(tmp_path).splitlines()
        if "`sprites`" in r and "| 3.00 +- 0.50 |  |" in r
    ]
    assert fid_row
    append_line(tmp_path / "fid.jsonl", line | {"seed": [0]})
    assert row_of(report.render(tmp_path), "`sprites`", "| 3.00 |")  # of one seed nothing spreads


def test_seeds_of_a_representation_share_a_row(tmp_path):
    for seed, success in enumerate([0.8, 0.9, 1.0]):
        append_line(tmp_path / "rl.jsonl", rl_line("genesis", seed, success))
    text = report.render(tmp_path)
    row = row_of(text, "SpriteGoal-v0", "| genesis |")
    assert row[3] == "0.900 +- 0.082"
    assert row[5] == "1,000 x 3 seeds"
    assert row_of(text, "random policy")[3] == "0.340"
    assert row_of(text, "SpriteGoal-v0", "| cnn |")[3] == ""


def test_a_picture_beside_the_lines_is_shown(tmp_path):
    assert "![rl]" not in report.render(tmp_path)
    (tmp_path / "rl.png").touch()
    assert "![rl](benchmarks/results/rl.png)" in report.render(tmp_path)


def test_a_stale_report_is_noticed(tmp_path, capsys):
    out = tmp_path / "RESULTS.md"
    argv = ["--results-dir", str(tmp_path), "--out", str(out)]
    with pytest.raises(ValueError, match=r"is stale; run python -m benchmarks\.report"):
        report.main([*argv, "--check"])
    report.main(argv)
    report.main([*argv, "--check"])
    append_line(tmp_path / "segmentation.jsonl", segmentation_line(0.9))
    with pytest.raises(ValueError, match="stale"):
        report.main([*argv, "--check"])


def test_the_committed_report_is_that_of_the_committed_results():
    report.main(["--check"])
    for path in report.RESULTS.glob("*.jsonl"):
        for line in path.read_text().splitlines():
            assert {"commit", "device", "seed", "command"} <= json.loads(line).keys()
