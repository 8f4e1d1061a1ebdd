from __future__ import annotations

import os
from pathlib import Path

import chromium
import pytest


@pytest.fixture(autouse=True)
def no_browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CI", raising=False)


def test_without_a_browser_the_tests_go_on(capfd: pytest.CaptureFixture[str]) -> None:
    assert chromium.main() == 0
    assert "the tests of the page skip" in capfd.readouterr().err


def test_continuous_integration_has_a_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "1")
    assert chromium.main() == 2


def test_apt_may_fail(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "apt-get").write_text("#!/bin/sh\necho no network >&2; exit 100\n")
    (tmp_path / "apt-get").chmod(0o755)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert chromium.main() == 0
    assert "`apt-get update` failed:\nno network" in capfd.readouterr().err


def test_a_browser_is_found(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "chromium").touch(0o755)
    assert chromium.main() == 0
    assert capfd.readouterr().err == ""
