"""Generating: the same bytes however it is run, killed, or damaged on the way."""

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from benchmarks.reliability_files import corruptions
from pretrain.data.generate import generate
from pretrain.data.gqn import Gqn
from pretrain.data.manifest import JOURNAL, MARKER
from pretrain.data.record_file import RecordFile
from pretrain.data.tfrecord import RecordError, read_records
from recipes import Noise

ROOT = Path(__file__).parent.parent
SECOND = "rooms_ring_camera/train/2-of-4.tfrecord"


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log"


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """What an undisturbed process makes."""
    folder = tmp_path_factory.mktemp("whole")
    return make(Noise(folder / "log"), folder / "data")


def make(recipe, root, workers=1):
    return generate(recipe, root, device="cpu", workers=workers, progress=False)


def start(recipe, root, workers):
    code = (
        "import sys; sys.path[:0] = [{tests!r}, {root!r}]\n"
        "from pathlib import Path, PosixPath; from recipes import Noise; import test_generate\n"
        "if __name__ == '__main__': test_generate.make({recipe!r}, Path({out!r}), {workers})"
    ).format(
        tests=str(ROOT / "tests"), root=str(ROOT), recipe=recipe, out=str(root), workers=workers
    )
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)


def content(root):
    files = {p.relative_to(root).as_posix(): p for p in root.rglob("*") if p.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if name != ".lock"}


def made(log):
    return sorted(map(int, log.read_text().split())) if log.exists() else []


def wait_until(condition, process):
    for _ in range(1200):
        if condition():
            return
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    raise AssertionError("it never happened")


def journalled(root):
    return (root / JOURNAL).read_bytes().count(b"\n") if (root / JOURNAL).is_file() else 0


def children(process):
    listed = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(pid) for pid in listed.read_text().split()]


def running(pid):
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][:3]
    except FileNotFoundError:
        return False


# --- what is made -------------------------------------------------------------------------------


def test_the_marker_names_every_file_with_hash_size_and_count(whole):
    marker = json.loads((whole / MARKER).read_text())
    assert marker["complete"]
    assert marker["generator"].startswith("genesis-rl ")
    assert (marker["dataset"], marker["images"], marker["settings"]["seed"]) == ("gqn", 150, 0)
    assert sorted(marker["files"]) == sorted(set(content(whole)) - {MARKER, JOURNAL})
    assert marker["files"][SECOND]["records"] == 3
    assert marker["files"][SECOND]["bytes"] == (whole / SECOND).stat().st_size
    assert (whole / "list.txt").read_text().split()[2:4] == [SECOND, "1"]


def test_the_readers_say_that_it_is_generated(whole):
    for data_dir in (whole, whole / "rooms_ring_camera"):
        data = Gqn("test", data_dir=data_dir)
        assert len(data) == 3
        assert data.source.startswith("generated (genesis-rl ")


def test_a_reader_notices_that_a_file_of_a_generated_set_is_gone(tmp_path, whole):
    root = shutil.copytree(whole, tmp_path / "data")
    (root / SECOND).unlink()
    with pytest.raises(FileNotFoundError, match=r"2-of-4\.tfrecord is missing, but genesis_rl"):
        Gqn("test", data_dir=root)
    with pytest.warns(UserWarning, match="holds 3 of 4 files"):
        assert len(Gqn("train", data_dir=root, on_corrupt="skip")) == 6


def test_what_is_there_is_not_made_again(tmp_path, log):
    make(Noise(log), tmp_path / "data")
    make(Noise(log), tmp_path / "data", workers=2)
    assert made(log) == [0, 1, 2, 3, 4]


# --- interrupted --------------------------------------------------------------------------------


def test_killed_with_its_workers_busy_it_goes_on_to_the_same_bytes(tmp_path, log, whole):
    root = tmp_path / "data"
    process = start(Noise(log, slow=3), root, workers=2)
    wait_until(lambda: journalled(root) == 4, process)
    workers = children(process)
    process.kill()
    process.wait()
    (root / "rooms_ring_camera" / "train" / ".5-of-4.tfrecord.1.tmp").write_bytes(b"half a file")
    for _ in range(200):  # the workers notice by themselves
        if not any(map(running, workers)):
            break
        time.sleep(0.05)
    assert len(workers) >= 2
    assert not any(map(running, workers))
    with pytest.raises(ValueError, match="not complete: generating it was interrupted"):
        Gqn("test", data_dir=root)
    assert made(log) == [0, 1, 2, 3, 4]  # unit 3 had its file, but was not done
    make(Noise(log), root)
    assert made(log) == [0, 1, 2, 3, 3, 4]
    assert content(root) == content(whole)


@pytest.fixture
def _control_c():
    """Ctrl-C interrupts, even where tests run in the background and inherit that it does not."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_control_c")
def test_control_c_leaves_what_is_done_and_says_so(tmp_path, log, capsys):
    with pytest.raises(KeyboardInterrupt):
        make(Noise(log, broken=2, fatal=signal.SIGINT), tmp_path / "data")
    said = "2 of 5 parts are made and kept; the same command goes on from there"
    assert said in capsys.readouterr().err
    make(Noise(log), tmp_path / "data")
    assert made(log) == [0, 1, 2, 3, 4]


def test_an_error_in_a_worker_stops_all_and_is_told_in_one_line(tmp_path, log, whole, capsys):
    with pytest.raises(ValueError, match=r"^unit 1 cannot be made\.$"):
        make(Noise(log, broken=1, slow=2), tmp_path / "data", workers=2)
    make(Noise(log), tmp_path / "data")
    assert content(tmp_path / "data") == content(whole)


def test_a_worker_that_is_killed_is_named(tmp_path, log):
    with pytest.raises(ChildProcessError, match=r"status -9 \(was memory short\?\)"):
        make(Noise(log, broken=0, fatal=signal.SIGKILL, slow=1), tmp_path / "data", workers=2)


def test_two_processes_at_once_make_it_once(tmp_path, log, whole):
    with ThreadPoolExecutor() as pool:  # the lock tells threads apart, too
        list(pool.map(lambda _: make(Noise(log), tmp_path / "data"), range(2)))
    assert made(log) == [0, 1, 2, 3, 4]
    assert content(tmp_path / "data") == content(whole)


# --- damaged ------------------------------------------------------------------------------------


def interrupted(root, log, after=3):
    with pytest.raises(ValueError, match="cannot be made"):
        make(Noise(log, broken=after), root)
    log.unlink()


def test_a_damaged_line_of_the_journal_only_costs_its_unit(tmp_path, log, whole):
    root = tmp_path / "data"
    interrupted(root, log)
    lines = (root / JOURNAL).read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b"2-of-4", b"2-of-5")
    (root / JOURNAL).write_bytes(b"".join(lines) + lines[0][:50])  # and one that was cut short
    make(Noise(log), root)
    assert made(log) == [1, 3, 4]
    assert content(root) == content(whole)


@pytest.mark.parametrize("damage", ["flip", "cut", "delete"])
def test_a_file_that_was_damaged_before_it_went_on_is_made_again(tmp_path, log, whole, damage):
    root = tmp_path / "data"
    interrupted(root, log)
    data = bytearray((root / SECOND).read_bytes())
    data[len(data) // 2] ^= 1
    match damage:
        case "flip":
            (root / SECOND).write_bytes(data)
        case "cut":
            os.truncate(root / SECOND, 0)
        case "delete":
            (root / SECOND).unlink()
    make(Noise(log), root)
    assert made(log) == [1, 3, 4]
    assert content(root) == content(whole)


def test_a_file_that_is_deleted_later_is_made_again_alone(tmp_path, log, whole):
    root = make(Noise(log), tmp_path / "data")
    log.unlink()
    (root / SECOND).unlink()
    (root / "list.txt").unlink()
    make(Noise(log), root)
    assert made(log) == [1]
    assert content(root) == content(whole)


def test_other_settings_and_foreign_folders_are_refused(tmp_path, log):
    root = make(Noise(log), tmp_path / "data")
    before = content(root)
    with pytest.raises(ValueError, match="was begun with seed=0, but seed=1 is asked for now"):
        make(Noise(log, seed=1), root)
    assert content(root) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(ValueError, match=r"mine holds thesis\.tex and no genesis_rl\.json"):
        make(Noise(log), tmp_path / "mine")
    with pytest.raises(ValueError, match="needs to be a folder, but is a file"):
        make(Noise(log), tmp_path / "mine" / "thesis.tex")


def test_a_damaged_marker_is_named(tmp_path, log):
    root = make(Noise(log), tmp_path / "data")
    for text, message in (("{", "is not JSON"), ('{"files": {"a": 1}}', "is damaged")):
        (root / MARKER).write_text(text)
        with pytest.raises(ValueError, match=rf"genesis_rl\.json {message}"):
            Gqn("test", data_dir=root)


def test_a_disk_without_space_is_noticed_before_it_is_full(tmp_path, log, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 9))
    with pytest.raises(OSError, match=r"needs 0\.0 GB more, but only 0\.0 GB are free") as raised:
        make(Noise(log), tmp_path / "data")
    assert raised.value.errno == errno.ENOSPC


def test_a_disk_that_is_full_leaves_what_is_done(tmp_path, log, whole):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    sizes = [path.stat().st_size for path in whole.rglob("*.tfrecord")]
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max(sizes) - 1, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            make(Noise(log), tmp_path / "data")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list((tmp_path / "data").rglob("*.tmp"))
    make(Noise(log), tmp_path / "data")
    assert content(tmp_path / "data") == content(whole)


def test_a_thousand_corruptions_of_a_generated_file_deliver_no_wrong_record(tmp_path, whole):
    path, undetectable = whole / SECOND, 0
    sound, data = [record.payload for record in read_records(path)], path.read_bytes()
    boundaries = {0, *RecordFile(path).offsets.tolist()}
    copy = tmp_path / "copy"
    for bad in corruptions(data, 1000, burst=64):
        copy.write_bytes(bad)
        seen, named = [], None
        try:
            seen.extend(record.payload for record in read_records(copy))
        except RecordError as error:
            named = str(error)
        assert seen == sound[: len(seen)]
        if named is None:
            assert len(bad) in boundaries  # cut between two records: only the count can tell
            undetectable += 1
        else:
            assert str(copy) in named
    assert undetectable < 10
