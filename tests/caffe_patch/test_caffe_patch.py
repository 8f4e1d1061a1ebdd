"""Tests of the script that builds patched Caffe, offline and without a build."""

import importlib
import importlib.util
import json
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "caffe_patch" / "build.py"

# The lines around the hunks of a patch are all a fake Caffe needs.
ORIGINAL, PATCHED = "one\ntwo\nthree\n", "one\nTWO\nthree\n"
PATCH = """--- a/src/caffe/proto/caffe.proto
+++ b/src/caffe/proto/caffe.proto
@@ -1,3 +1,3 @@
 one
-two
+TWO
 three
"""


@pytest.fixture
def build(tmp_path, monkeypatch):
    """Load the script as a module that works on a fake Caffe in a temporary folder."""
    monkeypatch.syspath_prepend(SCRIPT.parent)  # where it runs it finds its own
    spec = importlib.util.spec_from_file_location("caffe_build", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    patch = tmp_path / "fake.patch"
    patch.write_text(PATCH)
    monkeypatch.setattr(module, "PATCHES", [patch])
    monkeypatch.setattr(module, "BUILD", tmp_path / "build")
    monkeypatch.setattr(module, "SRC", tmp_path / "build" / "src")
    monkeypatch.setattr(module, "SITE", tmp_path / "site")
    monkeypatch.setenv("FISHING_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CAFFE_SRC", raising=False)
    monkeypatch.delenv("CUDA", raising=False)
    (tmp_path / "site").mkdir()
    return module


def fake_caffe(root):
    """Make a tree that looks like Caffe."""
    for name, text in (
        ("src/caffe/proto/caffe.proto", ORIGINAL),
        ("include/caffe/a.hpp", "a\n"),
        ("python/caffe/io.py", "b\n"),
        ("LICENSE", "c\n"),
        ("examples/big.txt", "d\n"),
    ):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def fake_tarball(build, monkeypatch, prefix=""):
    """Put an archive of the fake Caffe and its SHA-256 into the cache."""
    root = fake_caffe(Path(os.environ["FISHING_HOME"]).parent / "tree")
    path = Path(os.environ["FISHING_HOME"]) / build.TARBALL
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for file in sorted(p for p in root.rglob("*") if p.is_file()):
            archive.add(file, prefix + str(file.relative_to(root)))
    monkeypatch.setattr(build, "SHA256", build.sha256(path))
    return path


def test_wrong_archive_stops_with_both_sums(build, tmp_path, capsys):
    path = tmp_path / "cache" / build.TARBALL
    path.parent.mkdir()
    path.write_bytes(b"not Caffe")
    with pytest.raises(build.BuildError) as error:
        build.prepare_source()
    assert build.SHA256 in str(error.value)
    assert build.sha256(path) in str(error.value)
    assert not build.SRC.exists()


@pytest.mark.parametrize("prefix", ["", "./"])
def test_archive_is_unpacked_and_patched(build, monkeypatch, prefix):
    fake_tarball(build, monkeypatch, prefix)
    build.prepare_source()
    assert (build.SRC / "src/caffe/proto/caffe.proto").read_text() == PATCHED
    assert (build.SRC / "LICENSE").exists()
    assert not (build.SRC / "examples").exists()


def test_only_files_that_change_get_a_new_time(build, monkeypatch):
    fake_tarball(build, monkeypatch)
    build.prepare_source()
    changed = build.SRC / "src/caffe/proto/caffe.proto"
    kept = build.SRC / "include/caffe/a.hpp"
    for path in (changed, kept):
        os.utime(path, (1e9, 1e9))
    build.PATCHES[0].write_text(PATCH.replace("+TWO", "+Two"))
    build.prepare_source()
    assert changed.read_text() == "one\nTwo\nthree\n"
    assert changed.stat().st_mtime > 1e9
    assert kept.stat().st_mtime == 1e9


def test_caffe_src_is_copied_and_left_alone(build, tmp_path, monkeypatch):
    root = fake_caffe(tmp_path / "mine")
    monkeypatch.setenv("CAFFE_SRC", str(root))
    build.prepare_source()
    assert (build.SRC / "src/caffe/proto/caffe.proto").read_text() == PATCHED
    assert (root / "src/caffe/proto/caffe.proto").read_text() == ORIGINAL


def test_caffe_src_that_is_no_caffe_is_refused(build, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CAFFE_SRC", str(tmp_path))
    assert build.main(["install"]) == 2
    error = capsys.readouterr().err
    assert "is no Caffe source tree" in error
    assert "Traceback" not in error


def test_patched_tree_is_refused(build, tmp_path, monkeypatch):
    root = fake_caffe(tmp_path / "mine")
    (root / "src/caffe/proto/caffe.proto").write_text(PATCHED)
    monkeypatch.setenv("CAFFE_SRC", str(root))
    with pytest.raises(build.BuildError, match="does not apply"):
        build.prepare_source()
    assert not build.SRC.exists()


def test_upstream_is_cloned_last(build, tmp_path, monkeypatch):
    root = fake_caffe(tmp_path / "upstream")
    git = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "all"], check=True)
    monkeypatch.setattr(build, "UPSTREAM", str(root))
    monkeypatch.setattr(build, "COMMIT", "HEAD")
    monkeypatch.setattr(build, "fetch_apt", lambda tarball: False)
    build.prepare_source()
    assert (build.SRC / "src/caffe/proto/caffe.proto").read_text() == PATCHED


def test_no_source_at_all_says_what_to_do(build, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "UPSTREAM", str(tmp_path / "nowhere"))
    monkeypatch.setattr(build, "fetch_apt", lambda tarball: False)
    with pytest.raises(build.BuildError, match="CAFFE_SRC=<folder>"):
        build.prepare_source()


def test_missing_packages_are_named_without_root(build, monkeypatch):
    have = [name for name in build.APT if name not in ("cmake", "patch")]
    listing = "".join(f"installed {name}\n" for name in have)
    listing = listing.replace("libboost-python-dev", "libboost-python1.83-dev")
    monkeypatch.setattr(build, "run_quietly", lambda *a, **k: listing)
    monkeypatch.setattr(build.os, "geteuid", lambda: 1000)
    with pytest.raises(build.BuildError) as error:
        build.have_apt()
    assert str(error.value).endswith(
        "apt-get install -y --no-install-recommends cmake patch"
    )


def test_protobuf_runtime_follows_the_compiler(build):
    for protoc, runtime, taken in [
        ((3, 12, 4), (3, 20, 3), True),
        ((3, 12, 4), (4, 21), False),
        ((3, 21, 12), (4, 21), True),
        ((3, 21, 12), (7, 36), True),
        ((25, 1), (4, 25, 1), True),
        ((25, 1), (4, 21), False),
        ((29, 3), (5, 29), True),
        ((29, 3), (4, 25), False),
        ((29, 3), (7, 0), False),
        ((33, 0), (6, 33), True),
    ]:
        low, high = build.protobuf_range(protoc)
        assert (low <= runtime < high) is taken, (protoc, runtime)


def test_stamp_follows_what_is_built(build, tmp_path, monkeypatch):
    stamps = [build.wanted_stamp(), build.wanted_stamp()]
    assert stamps[0] == stamps[1]
    monkeypatch.setenv("CUDA", "1")
    stamps.append(build.wanted_stamp())
    monkeypatch.delenv("CUDA")
    build.PATCHES[0].write_text(PATCH + "\n")
    stamps.append(build.wanted_stamp())
    monkeypatch.setenv("CAFFE_SRC", str(fake_caffe(tmp_path / "mine")))
    stamps.append(build.wanted_stamp())
    (tmp_path / "mine/include/caffe/a.hpp").write_text("longer\n")
    stamps.append(build.wanted_stamp())
    assert len(set(stamps)) == 5


def fake_objects(build, module_text):
    """Make a build folder whose package imports nothing compiled."""
    obj = build.BUILD / "cpu"
    (obj / "gen/caffe/proto").mkdir(parents=True)
    (obj / "gen/caffe/proto/caffe_pb2.py").write_text("")
    (obj / "versions.json").write_text("{}")
    suffix = build.sysconfig.get_config_var("EXT_SUFFIX")
    (obj / ("_caffe" + suffix)).write_text("")
    (build.SRC / "python/caffe").mkdir(parents=True)
    (build.SRC / "python/caffe/__init__.py").write_text(module_text)
    (build.SRC / "LICENSE").write_text("")
    return obj


def test_package_is_swapped_in_whole(build, monkeypatch):
    monkeypatch.setattr(build, "protoc", lambda: (3, 21, 12))
    obj = fake_objects(build, "answer = 42\n")
    build.swap_in(obj, "stamp")
    assert build.installed_stamp() == "stamp"
    assert sorted(p.name for p in build.SITE.iterdir()) == ["caffe"]
    info = json.loads((build.SITE / "caffe/build.json").read_text())
    assert info["commit"] == build.COMMIT
    assert info["cuda"] is False
    (build.SITE / "caffe/proto/caffe_pb2.py").write_text("cut short")
    assert build.installed_stamp() is None


def test_package_that_cannot_be_imported_leaves_the_old_one(build, monkeypatch):
    monkeypatch.setattr(build, "protoc", lambda: (3, 21, 12))
    obj = fake_objects(build, "answer = 42\n")
    build.swap_in(obj, "old")
    (build.SRC / "python/caffe/__init__.py").write_text("import no_such_thing\n")
    with pytest.raises(build.BuildError, match="no_such_thing"):
        build.swap_in(obj, "new")
    assert build.installed_stamp() == "old"
    assert sorted(p.name for p in build.SITE.iterdir()) == ["caffe"]


def test_foreign_package_is_not_overwritten(build, monkeypatch, capsys):
    monkeypatch.setattr(build, "missing_pip", lambda: [])
    (build.SITE / "caffe").mkdir()
    (build.SITE / "caffe/mine.py").write_text("")
    assert build.main(["install"]) == 2
    assert "remove it first" in capsys.readouterr().err
    assert (build.SITE / "caffe/mine.py").exists()


def test_interrupt_is_no_traceback(build, monkeypatch, capsys):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "configure", interrupted)
    monkeypatch.setattr(build, "missing_pip", lambda: [])
    assert build.main(["install"]) == 130
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "code", "counts"),
    [
        ("[       OK ] A.a (0 ms)\n[  PASSED  ] 1 test.\n", 0, (1, 0)),
        (
            "[       OK ] A.a (0 ms)\n[  FAILED  ] A.b (3 ms)\n"
            "[  PASSED  ] 1 test.\n[  FAILED  ] 1 test, listed below:\n"
            "[  FAILED  ] A.b\n",
            1,
            (1, 1),
        ),
        ("[       OK ] A.a (0 ms)\n[ RUN      ] A.b\nabort\n", -6, (1, 1)),
        ("", 0, (0, 1)),
    ],
)
def test_gtest_logs_are_counted(build, text, code, counts):
    assert importlib.import_module("gtests").count_tests(text, code) == counts


def test_what_gtests_leave_behind_is_removed(build, tmp_path, monkeypatch):
    program = tmp_path / "caffe_tests"
    program.write_text(
        "#!/bin/sh\ntouch $TMPDIR/caffe_test.$GTEST_SHARD_INDEX\necho $TMPDIR\n"
        "echo '[       OK ] A.a (0 ms)'\necho '[  PASSED  ] 1 test.'\n"
    )
    program.chmod(0o755)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    run_tests = importlib.import_module("gtests").run_tests
    assert run_tests(program, "all", 2, folder=tmp_path)[:2] == (2, 0)
    assert not any(temporary.iterdir())


def test_usage(build, capsys):
    assert build.main([]) == 2
    assert "usage" in capsys.readouterr().err


def test_real_patches_are_well_formed():
    """Every hunk has as many lines as its header says."""
    for path in sorted(SCRIPT.parent.glob("*.patch")):
        text = path.read_text()
        assert text.count("\n--- a/") == text.count("\n+++ b/") > 0
        left = right = 0
        for line in text.splitlines():
            if line.startswith("@@"):
                assert (left, right) == (0, 0), path.name
                old, new = line.split()[1:3]
                left = int((old + ",1").split(",")[1])
                right = int((new + ",1").split(",")[1])
            elif left or right:
                left -= line[:1] in (" ", "-")
                right -= line[:1] in (" ", "+")
        assert (left, right) == (0, 0), path.name
