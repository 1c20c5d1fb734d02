import json

from benchmarks import loading


def test_the_command_loads_twice_then_gathers_batches_and_stores_a_line(tmp_path, cache, capsys):
    argv = ["--dataset", "multi_dsprites", "--train-images", "40", "--image-size", "32"]
    argv += ["--batch-size", "8", "--seconds", "0.01", "--device", "cpu"]
    loading.main([*argv, "--results-dir", str(tmp_path)])
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert json.loads((tmp_path / "loading.jsonl").read_text()) == line
    ways = ["compact form, first time", "compact form, again", "batches of 8"]
    assert [row["what"] for row in line["rows"]] == ways
    assert all(row["images_per_s"] > 0 for row in line["rows"])
    assert line["images"] == 40


def test_a_batch_row_counts_the_images_of_a_batch(monkeypatch):
    import torch

    from benchmarks import timing

    slow = timing.Timing(latency=0.5, interval=0.25)  # seconds a batch
    monkeypatch.setattr(timing, "time_calls", lambda *args, **kwargs: slow)
    images = torch.zeros(4, 32, 32, 3, dtype=torch.uint8)
    row = loading.batch_row(images, 2, torch.device("cpu"), seconds=1.0)
    assert row == {"what": "batches of 2", "images_per_s": 8.0, "us": 250_000.0}
