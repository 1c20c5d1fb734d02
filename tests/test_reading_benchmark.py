import json

from benchmarks import reading


def test_the_command_reads_both_kinds_of_files_and_stores_a_line(tmp_path, capsys):
    argv = ["--scenes", "40", "--different", "2", "--repeats", "1", "--device", "cpu"]
    reading.main([*argv, "--results-dir", str(tmp_path)])
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert json.loads((tmp_path / "reading.jsonl").read_text()) == line
    kinds = [row["what"] for row in line["rows"]]
    assert kinds == ["GQN, parsed", "GQN, decoded", "towers, decoded"]
    assert all(row["per_cpu_second"] >= row["median"] > 0 for row in line["rows"])
    assert 5000 < line["rows"][0]["bytes_per_scene"] < 50_000  # ten JPEG files


def test_a_rate_is_what_was_read_over_the_time_it_took(monkeypatch):
    clock = iter([10.0, 12.0, 20.0, 24.0])
    monkeypatch.setattr(reading.time, "process_time", lambda: next(clock))
    assert reading.rate(lambda: 8, repeats=2) == {"per_cpu_second": 4.0, "median": 3.0}
