import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile

import pytest

from congruence.core import files


def test_atomic_replaces_the_whole_file_and_makes_folders(tmp_path):
    path = tmp_path / "new" / "file.bin"
    for content in (b"first", b"second, longer"):
        with files.atomic(path) as file:
            file.write(content)
        assert path.read_bytes() == content
    assert os.listdir(path.parent) == ["file.bin"]
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    assert path.stat().st_mode == plain.stat().st_mode


def test_atomic_leaves_the_old_file_when_the_block_fails(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail_half_way():
        with files.atomic(path) as file:
            file.write(b"half of the new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_json(tmp_path):
    files.write_json(tmp_path / "a.json", {"x": [1, 2.5, None]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": [1, 2.5, None]}


def test_lines_survive_a_kill_in_the_last_one(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert files.read_lines(path) == []
    for step in range(3):
        files.append_line(path, {"step": step})
    with open(path, "a") as file:
        file.write('{"step": 3, "lo')
    assert files.read_lines(path) == [{"step": 0}, {"step": 1}, {"step": 2}]


def test_a_broken_line_in_the_middle_is_an_error(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0}\n{"ste\n{"step": 2}\n')
    with pytest.raises(ValueError, match="line 2 is not JSON"):
        files.read_lines(path)


def test_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 100000)
    assert files.sha256(tmp_path / "a") == hashlib.sha256(b"abc" * 100000).hexdigest()


def test_writable(tmp_path):
    assert files.writable(tmp_path / "a" / "b").is_dir()
    assert os.listdir(tmp_path / "a" / "b") == []
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ValueError, match=r"^The folder '.*file/inner' cannot be written to: "):
        files.writable(tmp_path / "file" / "inner")


def archive(path, name, kind=tarfile.REGTYPE, target=""):
    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo(name)
        member.type, member.linkname, member.size = kind, target, 3 if kind == tarfile.REGTYPE else 0
        tar.addfile(member, io.BytesIO(b"abc"))


def test_extract_tar(tmp_path):
    archive(tmp_path / "good.tar", "folder/file")
    files.extract_tar(tmp_path / "good.tar", tmp_path / "out")
    assert (tmp_path / "out" / "folder" / "file").read_bytes() == b"abc"


@pytest.mark.parametrize(
    ("name", "kind", "target"),
    [
        ("../evil", tarfile.REGTYPE, ""),
        ("link", tarfile.SYMTYPE, "/etc/passwd"),
        ("hard", tarfile.LNKTYPE, "../../evil"),
    ],
)
def test_extract_tar_refuses_what_leaves_the_folder(tmp_path, name, kind, target):
    archive(tmp_path / "bad.tar", name, kind, target)
    with pytest.raises((tarfile.FilterError, ValueError)):
        files.extract_tar(tmp_path / "bad.tar", tmp_path / "out")
    assert not (tmp_path / "evil").exists()
    assert not (tmp_path / "out" / name).exists()


def test_a_file_in_the_folder_s_place_is_told(tmp_path):
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(ValueError, match=r"taken' cannot be made: a file of that name is in its place\."):
        files.writable(tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "mine"


def test_without_posix_modules_everything_is_imported(tmp_path):
    code = """
import sys, logging, pathlib
for name in ("resource", "termios", "pwd", "grp"):
    sys.modules[name] = None  # as where the system has no such module
import congruence as cg, congruence.cli.main, congruence.pipeline.stages, congruence.bench.runner
from congruence.core import files
import congruence.data.sources.fetch
with files.locked(pathlib.Path(sys.argv[1], "deep", ".lock")):
    files.write_json(pathlib.Path(sys.argv[1], "a.json"), [1])
"""
    ran = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert (tmp_path / "a.json").read_text() == "[\n  1\n]\n"


def test_a_lock_is_waited_for(tmp_path):
    from filelock import Timeout

    path = tmp_path / "deep/.lock"
    with files.locked(path), pytest.raises(Timeout), files.locked(path, wait=0.05):
        pass
    with files.locked(path, wait=0.05):
        pass


def test_a_system_that_opens_no_folders_keeps_its_files(tmp_path, monkeypatch):
    opened = os.open

    def refuse_folders(path, *arguments, **more):
        if os.path.isdir(path):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **more)

    monkeypatch.setattr(os, "open", refuse_folders)
    with pytest.raises(PermissionError):  # here it is a fault
        files.write_json(tmp_path / "a.json", 1)
    monkeypatch.setattr(files.os, "name", "nt")
    files._sync_folder(str(tmp_path))
