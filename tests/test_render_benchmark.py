import json

import cv2
import pytest

from benchmarks import render


def test_the_command_times_both_stages_and_stores_a_line(tmp_path, capsys):
    argv = ["--stages", "stack", "room", "--scenes", "2", "--samples", "1", "--size", "16"]
    argv += ["--seconds", "0.01", "--device", "cpu", "--results-dir", str(tmp_path)]
    render.main(argv)
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [(row["stage"], row["scenes"], row["samples"]) for row in line["rows"]] == [
        ("stack", 2, 1),
        ("room", 2, 1),
    ]
    assert all(row["per_second"] > 0 and not row["fused"] for row in line["rows"])
    assert json.loads((tmp_path / "render.jsonl").read_text()) == line


def test_the_sheet_shows_images_above_masks(tmp_path):
    path = tmp_path / "sheet.png"
    render.main(["--picture", str(path), "--size", "16", "--device", "cpu"])
    sheet = cv2.imread(str(path))
    assert sheet.shape == (2 * 16, 8 * 16, 3)
    background = (sheet[16:] == 40).all(axis=2)
    assert 0.5 < background.mean() < 1  # towers are small in their room


def test_kernels_are_refused_on_a_cpu():
    with pytest.raises(ValueError, match="fused kernels need Triton and a CUDA device"):
        render.main(["--fused", "on", "--scenes", "2", "--device", "cpu"])
