#!/usr/bin/env python3
"""Fetches, patches, builds, tests and installs Caffe at commit 99bd997.

    python caffe_patch/build.py install     # what `make caffe-patched` runs
    python caffe_patch/build.py test        # what `make caffe-test` runs
    python caffe_patch/build.py tests       # builds Caffe's tests, and runs none

The package `caffe` goes into the site-packages of the interpreter that runs
this script.  Environment: CAFFE_SRC (a Caffe tree to use), CUDA=1 (with
CUDA_HOME and CUDA_ARCH: see cuda_toolkit.py), FISHING_HOME (the cache of
downloads).  README.md beside this file says what is built.  Standard library
only.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cuda_toolkit
from failure import BuildError
from gtests import run_tests

Version = tuple[int, ...]

HERE = Path(__file__).resolve().parent
BUILD = HERE.parent / "build" / "caffe"
SRC = BUILD / "src"
SITE = Path(sysconfig.get_path("platlib"))
PATCHES = [HERE / f"{name}.patch" for name in ("toolchain", "softmax", "tf32")]
RECIPE = [HERE / n for n in ("CMakeLists.txt", "build.py", "cuda_toolkit.py")]

COMMIT = "99bd997"
UPSTREAM = "https://github.com/BVLC/caffe"
TARBALL = "caffe_1.0.0+git20180821.99bd997.orig.tar.gz"
SHA256 = "e0eb3f06794f7402c77b7dec8e8480273ee1a1bb192e9122b621a69d4147ad0c"
PARTS = ("src", "include", "python/caffe", "LICENSE")  # what is compiled

# Every package the build wants of apt.
APT = [
    *("g++", "cmake", "ninja-build", "patch", "protobuf-compiler"),
    *("libprotobuf-dev", "libboost-python-dev", "libboost-thread-dev"),
    *("libboost-filesystem-dev", "libgoogle-glog-dev", "libgflags-dev"),
    *("libhdf5-dev", "libopenblas-dev"),
]

# Every package pycaffe wants of pip; protobuf_range() adds the last one.
PIP: list[tuple[str, Version, Version | None]] = [
    ("numpy", (1, 22), None),
    ("six", (1, 10), None),
]


def main(argv: list[str]) -> int:
    """Run one command; 0 when it succeeded, 1 when tests failed, else 2."""
    commands = {"install": install, "test": test, "tests": build_tests}
    if len(argv) != 1 or argv[0] not in commands:
        print("usage: build.py install|test|tests", file=sys.stderr)
        return 2
    try:
        return commands[argv[0]]()
    except BuildError as error:
        print(f"caffe: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("caffe: interrupted; what was installed stays as it was", file=sys.stderr)
        return 130


def install() -> int:
    """Build pycaffe and swap it into site-packages, if anything changed."""
    if installed_stamp() == wanted_stamp() and not missing_pip():
        print(f"caffe: up to date in {SITE / 'caffe'}")
        return 0
    target = SITE / "caffe"
    if target.exists() and not (target / "build.json").exists():
        raise BuildError(
            f"{target} is a caffe that this script did not install; remove it first"
        )
    with alone():
        obj = configure()
        ninja(obj, "pycaffe")
        swap_in(obj, wanted_stamp())
    print(f"caffe: installed in {target}")
    return 0


def build_tests() -> int:
    """Build Caffe's own tests on the patched tree."""
    with alone():
        ninja(configure(), "caffe_tests")
    return 0


def test() -> int:
    """Build Caffe's own tests on the patched tree and run them in shards."""
    with alone():
        obj = configure()
        ninja(obj, "caffe_tests")
        which = "cpu build"
        if cuda():  # tests that need a GPU wait for a machine that has one
            which = "all" if cuda_toolkit.installed_gpus() else "cpu"
        found = run_tests(obj / "caffe_tests", which, min(cores(), 4), folder=SRC)
    print(found.log)
    print(f"{found.passed} passed, {found.failed} failed")
    return 0 if found.passed and not found.failed else 1


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Wait until no other run works in the build folder."""
    BUILD.mkdir(parents=True, exist_ok=True)
    with open(BUILD / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# ---- what is wanted, what is there


def cuda() -> bool:
    """Whether the GPU build is asked for."""
    return os.environ.get("CUDA", "0") not in ("", "0")


def cuda_choices() -> list[str]:
    """List what decides a GPU build, as far as the environment says."""
    names = ("CUDA_HOME", "CUDA_ARCH")
    return [str(cuda_toolkit.find_nvcc()), *(os.environ.get(n, "") for n in names)]


def cores() -> int:
    """Count the processor cores this process may use."""
    return len(os.sched_getaffinity(0))


def sha256(*paths: Path | str) -> str:
    """SHA-256 over the contents of files, in order."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(Path(path).read_bytes())
    return digest.hexdigest()


def source_id() -> str:
    """Identify the unpatched source: its sum, or CAFFE_SRC's state."""
    if not os.environ.get("CAFFE_SRC"):
        return SHA256
    root = caffe_src()
    files = [
        p
        for part in PARTS
        for p in [root / part, *root.glob(part + "/**/*")]
        if p.is_file() and "__pycache__" not in p.parts
    ]
    state = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in sorted(files)]
    return hashlib.sha256(repr(state).encode()).hexdigest()


def wanted_stamp() -> str:
    """Sum up all that decides what the installed package is."""
    parts = [
        source_id(),
        sha256(*PATCHES, *RECIPE),
        *(["CPU"] if not cuda() else cuda_choices()),
        sys.version,
        sys.prefix,
    ]
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        # An extension built for NumPy 1 does not load into NumPy 2.
        parts.append(importlib.metadata.version("numpy").split(".")[0])
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def installed_stamp() -> str | None:
    """Read the stamp of the installed package; None if it is not whole."""
    root = SITE / "caffe"
    try:
        found = json.loads((root / ".stamp").read_text())
        sizes = {name: (root / name).stat().st_size for name in found["sizes"]}
    except (OSError, ValueError, KeyError):
        return None
    return found["stamp"] if sizes == found["sizes"] else None


def missing_pip() -> list[str]:
    """List the needs of pycaffe that this interpreter does not meet."""
    missing = []
    for name, low, high in [*PIP, ("protobuf", *protobuf_range(protoc()))]:
        found: Version = ()
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found = version(importlib.metadata.version(name))
        if found < low or (high and found >= high):
            missing.append(
                f"{name}>={dotted(low)}" + (f",<{dotted(high)}" if high else "")
            )
    return missing


def protobuf_range(protoc_version: Version) -> tuple[Version, Version]:
    """Return (lowest, below) for the protobuf runtimes that take this protoc's code.

    Python's numbers run apart from protoc's since protoc 3.21 = Python 4.21.
    """
    if protoc_version < (3, 20):
        return (3, 12), (3, 21)  # 4 refuses the code of protoc before 3.19
    if protoc_version < (4,):
        return (3, 20), (8,)
    major = protoc_version[0]
    if major < 26:
        return (4, major), (8,)
    # From 26 on the runtime checks: not older, at most one major ahead.
    python_major = 5 if major < 30 else 6 if major < 34 else 7
    return (python_major, major), (python_major + 2,)


def protoc() -> Version:
    """Ask the protobuf compiler on PATH for its version."""
    try:
        return version(
            subprocess.run(
                ["protoc", "--version"], check=True, capture_output=True, text=True
            ).stdout
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise BuildError("no protoc on PATH; install protobuf-compiler") from error


def version(text: str) -> Version:
    """Find the first version number in a text."""
    return tuple(map(int, re.findall(r"\d+(?:\.\d+)*", text)[0].split(".")))


def dotted(numbers: Version) -> str:
    """(3, 20) as '3.20'."""
    return ".".join(map(str, numbers))


# ---- getting the source


def prepare_source() -> None:
    """Make build/caffe/src the patched tree; touch only files that change."""
    wanted = json.dumps([source_id(), sha256(*PATCHES)])
    if (SRC / ".patched").exists() and (SRC / ".patched").read_text() == wanted:
        return
    new, old = BUILD / "src.new", BUILD / "src.old"
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    new.mkdir(parents=True)
    if os.environ.get("CAFFE_SRC"):
        copy_parts(caffe_src(), new)
        origin = os.environ["CAFFE_SRC"]
    else:
        origin = fetch(new)
    for patch in PATCHES:
        result = subprocess.run(
            ["patch", "-p1", "--batch", "--forward", "--fuzz=0", "-i", patch],
            cwd=new,
            capture_output=True,
            text=True,
        )
        if result.returncode:
            raise BuildError(
                f"{patch.name} does not apply to {origin}: expected Caffe at "
                f"{COMMIT}, unpatched\n{result.stdout.strip()[:2000]}"
            )
    for path in new.rglob("*"):
        # Same bytes as last time: keep the time, so that ninja does not
        # compile it again; else it is new, whatever time an archive gave it.
        before = SRC / path.relative_to(new)
        if path.is_file():
            os.utime(path)
            if before.is_file() and before.read_bytes() == path.read_bytes():
                shutil.copystat(before, path)
    (new / ".patched").write_text(wanted)
    if SRC.exists():
        SRC.rename(old)
    new.rename(SRC)
    shutil.rmtree(old, ignore_errors=True)


def caffe_src() -> Path:
    """Resolve CAFFE_SRC; it must be a Caffe tree."""
    root = Path(os.environ["CAFFE_SRC"]).expanduser().resolve()
    if not (root / "src/caffe/proto/caffe.proto").is_file():
        raise BuildError(
            f"CAFFE_SRC={root} is no Caffe source tree: it has no "
            "src/caffe/proto/caffe.proto"
        )
    return root


def copy_parts(root: Path, new: Path) -> None:
    """Copy what is compiled from a tree that stays as it is."""
    for part in PARTS:
        if (root / part).is_dir():
            shutil.copytree(root / part, new / part)
        elif (root / part).is_file():
            shutil.copy(root / part, new / part)


def fetch(new: Path) -> str:
    """Unpack the original source into a folder: cache, apt, or git."""
    home = (
        os.environ.get("FISHING_HOME")
        or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fishing"
    )
    tarball = Path(home).expanduser() / TARBALL
    if not tarball.is_file() and not fetch_apt(tarball):
        return fetch_git(new)
    found = sha256(tarball)
    if found != SHA256:
        raise BuildError(
            f"{tarball} is not Caffe's source archive; SHA-256\n"
            f"  expected {SHA256}\n  found    {found}\n"
            "remove the file and try again"
        )
    with tarfile.open(tarball) as archive:
        # What Python 3.14 does by itself; the first 3.10 and 3.11 cannot.
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(
            new,
            [
                m
                for m in archive
                if any(
                    (m.name.removeprefix("./") + "/").startswith(p + "/") for p in PARTS
                )
            ],
        )
    return str(tarball)


def fetch_apt(tarball: Path) -> bool:
    """Download the archive as Debian 11's source package, if apt has it.

    Debian 12 dropped the package, so a private list asks the machine's own
    mirrors for Debian 11; the machine's list and state stay as they are.
    """
    uris = run_quietly(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]
    )
    if not uris:
        return False
    print("caffe: looking for the source package with apt", flush=True)
    with tempfile.TemporaryDirectory() as tmp:
        for folder in ("lists/partial", "cache/archives/partial"):
            Path(tmp, folder).mkdir(parents=True)
        # trusted: the archive's own sum decides, and keys of old releases end.
        Path(tmp, "list").write_text(
            "".join(
                f"deb-src [trusted=yes] {uri} bullseye main\n"
                for uri in sorted(set(uris.split()))
            )
        )
        apt = [
            "apt-get",
            "-qq",
            "-o",
            f"Dir::Etc::SourceList={tmp}/list",
            "-o",
            "Dir::Etc::SourceParts=/dev/null",
            "-o",
            f"Dir::State::Lists={tmp}/lists",
            "-o",
            f"Dir::Cache={tmp}/cache",
            "-o",
            "APT::Sandbox::User=",
            "-o",
            "Acquire::Check-Valid-Until=false",
        ]
        # Mirrors without that release fail here, and do not matter.
        run_quietly([*apt, "update"])
        run_quietly([*apt, "source", "--download-only", "--tar-only", "caffe"], cwd=tmp)
        found = Path(tmp, TARBALL)
        if found.is_file():
            tarball.parent.mkdir(parents=True, exist_ok=True)
            part = tarball.with_suffix(f".part{os.getpid()}")
            shutil.copy(found, part)
            part.replace(tarball)
        return found.is_file()


def fetch_git(new: Path) -> str:
    """Clone upstream at the commit."""
    clone = BUILD / "clone"
    shutil.rmtree(clone, ignore_errors=True)
    print(f"caffe: cloning {UPSTREAM}", flush=True)
    run_quietly(["git", "clone", "--quiet", "--no-checkout", UPSTREAM, str(clone)])
    run_quietly(["git", "-C", str(clone), "checkout", "--quiet", COMMIT])
    if not (clone / "src").is_dir():
        raise BuildError(
            f"no source of Caffe at {COMMIT}: {TARBALL} is neither in the cache "
            f"nor in apt's sources, and {UPSTREAM} cannot be cloned; give a "
            "tree with CAFFE_SRC=<folder>"
        )
    copy_parts(clone, new)
    shutil.rmtree(clone)
    return UPSTREAM


def run_quietly(command: list[str], **options: Any) -> str:
    """Return what a command prints; nothing if it is missing or fails."""
    with contextlib.suppress(OSError):
        result = subprocess.run(
            command, capture_output=True, text=True, stdin=subprocess.DEVNULL, **options
        )
        return result.stdout if result.returncode == 0 else ""
    return ""


# ---- building


def configure(obj: Path | None = None) -> Path:
    """Have dependencies, source and build files ready; the build folder."""
    have_apt()
    have_pip()
    prepare_source()
    obj = obj or BUILD / ("cuda" if cuda() else "cpu")
    run_cmake(obj, SRC, cuda_settings() if cuda() else ["-DCUDA=OFF"])
    return obj


def run_cmake(obj: Path, source: Path, settings: list[str]) -> None:
    """Write the build files for a patched tree into a folder."""
    obj.mkdir(exist_ok=True)
    numpy = subprocess.run(
        [sys.executable, "-c", "import numpy; print(numpy.get_include())"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    include = sysconfig.get_path("include")
    if not Path(include, "Python.h").is_file():
        raise BuildError(
            f"no Python.h in {include}; install the development "
            f"package of {sys.executable}"
        )
    command = [
        "cmake",
        "-G",
        "Ninja",
        "-S",
        str(HERE),
        "-B",
        str(obj),
        f"-DCAFFE_SRC={source}",
        f"-DPYTHON_TAG={sys.version_info[0]}{sys.version_info[1]}",
        f"-DPYTHON_INCLUDE_DIR={include}",
        f"-DNUMPY_INCLUDE_DIR={numpy}",
        f"-DPYTHON_EXT_SUFFIX={sysconfig.get_config_var('EXT_SUFFIX')}",
        *settings,
    ]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        # Start afresh next time: a cache keeps what it failed to find.
        (obj / "CMakeCache.txt").unlink(missing_ok=True)
        reasons = re.findall(r"^stop: (.*)", result.stderr, re.M)
        raise BuildError(
            "\n".join(reasons)
            or "cmake failed\n" + (result.stdout + result.stderr)[-3000:].strip()
        )


def cuda_settings() -> list[str]:
    """Tell CMake of the toolkit."""
    found = cuda_toolkit.find_toolkit()
    return [
        "-DCUDA=ON",
        f"-DCMAKE_CUDA_COMPILER={found.nvcc}",
        "-DCMAKE_CUDA_ARCHITECTURES=OFF",  # the flags say more than it can
        f"-DCMAKE_CUDA_FLAGS={found.gencode()}",
        f"-DCUDA_ARCHITECTURES_TEXT={' '.join(map(str, found.architectures))}",
        f"-DCUDA_MATH_INCLUDES={';'.join(map(str, found.includes))}",
        f"-DCUDA_MATH_LIBRARIES={';'.join(map(str, found.libraries))}",
    ]


def have_apt() -> None:
    """Install the missing apt packages, or name them if that needs root."""
    names = run_quietly(["dpkg-query", "-W", "-f", "${db:Status-Status} ${Package}\n"])
    if not names:
        return  # no Debian: CMake names what it does not find
    # libboost-python1.83-dev is as good as the default libboost-python-dev.
    have = {
        re.sub(r"^(libboost-[a-z]+)[\d.]+-dev$", r"\1-dev", line.split()[1])
        for line in names.splitlines()
        if line.startswith("installed ")
    }
    missing = [name for name in APT if name not in have]
    if not missing:
        return
    line = ["apt-get", "install", "-y", "--no-install-recommends", *missing]
    if os.geteuid():
        raise BuildError(
            "packages are missing; run as root, then try again:\n" + " ".join(line)
        )
    print("caffe: " + " ".join(line), flush=True)
    env = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    run_quietly(["apt-get", "update"], env=env)
    result = subprocess.run(line, env=env, capture_output=True, text=True)
    if result.returncode:
        raise BuildError(
            " ".join(line)
            + " failed:\n"
            + (result.stdout + result.stderr)[-2000:].strip()
        )


def have_pip() -> None:
    """Install the missing pip packages into this interpreter."""
    missing = missing_pip()
    if (
        missing
        and subprocess.run(
            [sys.executable, "-m", "pip", "install", "-q", *missing]
        ).returncode
    ):
        raise BuildError("pip could not install " + " ".join(missing))


def ninja(obj: Path, target: str) -> None:
    """Build one target with all cores."""
    result = subprocess.run(["ninja", "-C", obj, "-j", str(cores()), target])
    if result.returncode:
        raise BuildError(f"ninja {target} failed; the lines above say where")


def fill_package(package: Path, obj: Path, module: Path, gpu_blas: str | None) -> None:
    """Make a folder the package `caffe` around its extension module."""
    (package / "proto").mkdir(parents=True)
    for path in (SRC / "python/caffe").glob("*.py"):
        shutil.copyfile(path, package / path.name)
    generated = obj / "gen/caffe/proto/caffe_pb2.py"
    shutil.copyfile(generated, package / "proto/caffe_pb2.py")
    (package / "proto/__init__.py").touch()
    shutil.copy(module, package / module.name)
    shutil.copy(SRC / "LICENSE", package / "LICENSE")
    info = dict(
        json.loads((obj / "versions.json").read_text()),
        cuda=cuda(),
        gpu_blas=gpu_blas,
        commit="CAFFE_SRC" if os.environ.get("CAFFE_SRC") else COMMIT,
        patches_sha256=sha256(*PATCHES),
        protobuf=dotted(protoc()),
    )
    text = json.dumps(info, indent=2, sort_keys=True) + "\n"
    (package / "build.json").write_text(text)


def module_name() -> str:
    """Name the file of the extension module."""
    return "_caffe" + str(sysconfig.get_config_var("EXT_SUFFIX"))


def swap_in(obj: Path, stamp: str) -> None:
    """Stage the package, import it once, and put it in the old one's place."""
    stage, old = SITE / ".caffe-new", SITE / ".caffe-old"
    for leftover in (stage, old):
        shutil.rmtree(leftover, ignore_errors=True)
    package = stage / "caffe"
    try:
        fill_package(package, obj, obj / module_name(), "cuBLAS" if cuda() else None)
        env = dict(os.environ, PYTHONPATH=str(stage), PYTHONDONTWRITEBYTECODE="1")
        check = subprocess.run(
            [sys.executable, "-c", "import caffe"],
            env=env,
            capture_output=True,
            text=True,
        )
        if check.returncode:
            # Of a crash the exit code is all there is.
            raise BuildError(
                f"the built package cannot be imported (exit {check.returncode}; if "
                f"libraries were replaced since the last build, remove {BUILD}):\n"
                + check.stderr.strip()[-2000:]
            )
        sizes = {
            str(p.relative_to(package)): p.stat().st_size
            for p in sorted(package.rglob("*"))
            if p.is_file()
        }
        (package / ".stamp").write_text(json.dumps({"stamp": stamp, "sizes": sizes}))
        if (SITE / "caffe").exists():
            (SITE / "caffe").rename(old)
        package.rename(SITE / "caffe")
    finally:
        for leftover in (stage, old):
            shutil.rmtree(leftover, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
