"""Members are found where `tarfile` finds them, in every format, and damage is said."""

from __future__ import annotations

import io
import os
import tarfile

import pytest

from congruence.data.sources.tar_headers import read_member, tar_members

NAMES = ("a.jpg", "b/c.jpg", "d" * 90 + "/" + "e" * 95 + ".png", "ü/ö.jpg", "x" * 99, "y" * 100)


def written(path, kind, names=NAMES):
    with tarfile.open(path, "w", format=kind) as tar:
        for number, name in enumerate(names):
            content = os.urandom(number * 300)
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(content), number + (0.5 if kind == tarfile.PAX_FORMAT else 0)
            tar.addfile(member, io.BytesIO(content))
            link = tarfile.TarInfo(f"{number}.link")
            link.type, link.linkname = tarfile.SYMTYPE, "a.jpg"
            tar.addfile(link)
            folder = tarfile.TarInfo(f"folder{number}/")
            folder.type = tarfile.DIRTYPE
            tar.addfile(folder)
        if kind != tarfile.USTAR_FORMAT:
            tar.addfile(tarfile.TarInfo("z" * 300 + ".jpg"), io.BytesIO(b""))
    return path


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_those_of_tarfile(tmp_path, kind):
    path = written(tmp_path / "a.tar", kind)
    with tarfile.open(path) as tar:
        wanted = [(each.name, each.offset_data, each.size) for each in tar if each.isreg()]
        contents = [tar.extractfile(name).read() for name, _, _ in wanted]
    found = list(tar_members(path))
    assert [tuple(each) for each in found] == wanted
    assert [read_member(path, each) for each in found] == contents


def test_damage_is_said(tmp_path):
    path = written(tmp_path / "a.tar", tarfile.PAX_FORMAT)
    content = path.read_bytes()
    members = list(tar_members(path))
    for cut in (members[3].offset + 5, members[-1].offset, 100):
        path.write_bytes(content[:cut])
        with pytest.raises(ValueError, match=r"a\.tar' is damaged: it (ends before|lacks the mark)"):
            list(tar_members(path))
    path.write_bytes(content[:512].replace(b"ustar", b"vstar") + content[512:])
    with pytest.raises(ValueError, match="cannot be read as a tar file"):
        list(tar_members(path))
    path.write_bytes(b"not a tar file at all, but long enough to have a header" * 20)
    with pytest.raises(ValueError, match="cannot be read as a tar file"):
        list(tar_members(path))
    with pytest.raises(ValueError, match="cannot be read"):
        list(tar_members(tmp_path / "none.tar"))


def test_large_sizes_are_read(tmp_path):
    member = tarfile.TarInfo("large.jpg")
    member.size = 9 * 2**30
    path = tmp_path / "large.tar"
    with open(path, "wb") as file:
        file.write(member.tobuf(tarfile.GNU_FORMAT))
        file.truncate(512 + member.size + 1024)  # sparse on the disk, zeros to a reader
    assert [tuple(each) for each in tar_members(path)] == [("large.jpg", 512, member.size)]
