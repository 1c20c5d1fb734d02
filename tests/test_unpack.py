"""Archives of data: what they hold goes into one folder, and nothing of a hostile one leaves it."""

import bz2
import fcntl
import gzip
import hashlib
import os
import random
import stat
import tarfile

import pytest

from benchmarks.reliability_archives import HOSTILE, regular, special, tar, zipped
from pretrain.data import unpack as unpacking
from pretrain.data.__main__ import main
from pretrain.data.unpack import unpack

FILES = {
    "shapestacks/recordings/env_a/rgb.png": b"\x89PNG" * 100,
    "shapestacks/splits/default/train.txt": b"env_a\n",
    "shapestacks/empty": b"",
}


SOUND = {
    "a.tar": tar(*(regular(*item) for item in FILES.items())),
    "a.tar.gz": gzip.compress(tar(*(regular(*item) for item in FILES.items()))),
    "a.tar.bz2": bz2.compress(tar(*(regular(*item) for item in FILES.items()))),
    "a.zip": zipped(*((name, data, stat.S_IFREG) for name, data in FILES.items())),
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "secret").write_text("secret")
    return tmp_path / "target"


def save(folder, data, name="archive"):
    path = folder.parent / name
    path.write_bytes(data)
    return path


def tree(folder):
    paths = [path for path in folder.rglob("*") if path.is_file() or path.is_symlink()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@pytest.mark.parametrize("name", SOUND)
def test_regular_files_arrive_and_a_second_run_passes_over_them(folder, name):
    path = save(folder, SOUND[name], name)
    done = unpack(path, folder, sha256=hashlib.sha256(SOUND[name]).hexdigest(), progress=False)
    assert tree(folder) == FILES
    assert (done.files, done.bytes, done.kept) == (3, 406, 0)
    (folder / "shapestacks/empty").unlink()
    assert unpack(path, folder, progress=False).kept == 2
    assert tree(folder) == FILES


def test_what_tar_makes_of_a_folder_is_unpacked(folder):
    members = [special("./", tarfile.DIRTYPE), special("./a/", tarfile.DIRTYPE), regular("./a/b")]
    assert unpack(save(folder, tar(*members)), folder, progress=False).files == 1
    assert tree(folder) == {"a/b": b"content"}


def test_what_a_killed_process_left_does_not_stay(folder):
    (folder / "a").mkdir(parents=True)
    (folder / "a/.b.tmp").write_bytes(b"con")
    unpack(save(folder, tar(regular("a/b"))), folder, progress=False)
    assert tree(folder) == {"a/b": b"content"}


def test_one_process_unpacks_into_a_folder_at_a_time(folder):
    folder.mkdir()
    path = save(folder, SOUND["a.tar"])
    handle = os.open(folder, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(ValueError, match="another process unpacks into"):
        unpack(path, folder, progress=False)
    os.close(handle)
    assert unpack(path, folder, progress=False).files == 3


@pytest.mark.parametrize("kind", HOSTILE)
def test_nothing_of_a_hostile_archive_leaves_the_folder(folder, kind):
    path = save(folder, HOSTILE[kind])
    outside = sorted(folder.parent.iterdir())
    with pytest.raises(ValueError, match=r"refused|no safe name|plausible"):
        unpack(path, folder, progress=False)
    assert sorted(p for p in folder.parent.iterdir() if p != folder) == outside
    assert set(tree(folder)) <= {"fine"}
    assert (folder.parent / "secret").read_text() == "secret"


def test_a_link_that_is_in_the_folder_already_is_not_followed(folder):
    folder.mkdir()
    (folder / "link").symlink_to(folder.parent)
    (folder / "file").symlink_to(folder.parent / "secret")
    for name in ("link/out", "file"):
        path = save(folder, tar(regular(name)))
        with pytest.raises(ValueError, match="written through a link"):
            unpack(path, folder, progress=False)
    assert not (folder.parent / "out").exists()
    assert (folder.parent / "secret").read_text() == "secret"


@pytest.mark.parametrize("length", [1 << 30, 1 << 62])
def test_a_header_of_absurd_length_is_refused_before_anything_is_allocated(folder, length):
    info = tarfile.TarInfo("long")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, length
    header = info.tobuf(tarfile.GNU_FORMAT)
    with pytest.raises(ValueError, match="a header announces"):
        unpack(save(folder, header + bytes(10_000)), folder, progress=False)


def test_another_hash_is_refused_before_anything_is_written(folder):
    with pytest.raises(ValueError, match=r"needs to have SHA-256 0123, but has [0-9a-f]{64}\."):
        unpack(save(folder, SOUND["a.tar"]), folder, sha256="0123", progress=False)
    assert not folder.exists()


def test_a_file_with_other_content_is_left_alone(folder):
    folder.mkdir()
    (folder / "shapestacks").mkdir()
    (folder / "shapestacks/empty").write_text("mine")
    with pytest.raises(ValueError, match="empty is there already with other content"):
        unpack(save(folder, SOUND["a.tar"]), folder, progress=False)
    assert (folder / "shapestacks/empty").read_text() == "mine"


@pytest.mark.parametrize("name", SOUND)
def test_damage_is_named_and_no_file_is_half_there(folder, name):
    rng, unnoticed = random.Random(0), 0
    for trial in range(60):
        data, target = bytearray(SOUND[name]), folder / str(trial)
        if trial % 2:
            del data[rng.randrange(1, len(data)) :]
        else:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        folder.mkdir(exist_ok=True)
        try:
            unpack(save(folder, data), target, progress=False)
        except ValueError as error:
            assert str(folder.parent / "archive") in str(error)  # noqa: PT017
        else:
            unnoticed += tree(target) != FILES
        assert not list(target.rglob("*.tmp"))
        assert all(len(v) == len(FILES[n]) for n, v in tree(target).items() if n in FILES)
    # Plain tar files have no checksum over content; that is what --sha256 is for.
    assert unnoticed == 0 or name == "a.tar"


def test_a_disk_without_space_is_noticed(folder, monkeypatch):
    usage = unpacking.shutil.disk_usage(folder.parent)._replace(free=5)
    monkeypatch.setattr(unpacking.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OSError, match=r"needs 400 bytes, but 5 are free"):
        unpack(save(folder, SOUND["a.tar"]), folder, progress=False)


def test_the_command_prints_the_hash_and_fails_in_one_line(folder, capsys):
    path = save(folder, SOUND["a.tar.gz"])
    assert main(["unpack", str(path), str(folder)]) == 0
    printed = capsys.readouterr().out
    assert hashlib.sha256(SOUND["a.tar.gz"]).hexdigest() in printed
    assert "3 files" in printed
    for arguments in (
        [str(path), str(folder), "--sha256", "00"],
        [str(folder / "absent.tar"), str(folder)],
        [str(save(folder, HOSTILE["parent"])), str(folder)],
    ):
        assert main(["unpack", *arguments]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert len(error.splitlines()) == 1
    assert os.listdir(folder.parent).count("out") == 0
