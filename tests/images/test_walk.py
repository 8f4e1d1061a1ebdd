from __future__ import annotations

import logging
from pathlib import Path

from fishing.images import find_photos


def test_photos_are_files_and_all_images_of_folders(tmp_path: Path, caplog) -> None:
    for name in ("b.jpg", "a/c.PNG", "a/notes.txt", ".hidden.jpg", "odd"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a" / "gone.jpg").symlink_to(tmp_path / "nowhere")
    odd, none = tmp_path / "odd", tmp_path / "none.jpg"
    with caplog.at_level(logging.INFO):
        photos, failed = find_photos([odd, tmp_path, tmp_path / "b.jpg", none])
    assert photos == [odd, tmp_path / "a" / "c.PNG", tmp_path / "b.jpg", none]
    assert list(failed) == [tmp_path / "a" / "gone.jpg"]
    assert "leads nowhere" in failed[tmp_path / "a" / "gone.jpg"]
    assert f"2 files in '{tmp_path}' are no images; left alone" in caplog.text
    assert find_photos([]) == ([], {})
