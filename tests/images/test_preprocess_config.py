"""The files of other libraries give inputs that are theirs: `other_libraries.py` says
how the stored ones were made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from other_libraries import CASES, SIZES, STORED, config, image, thinned

from fishing.errors import NetError
from fishing.images import Preprocess, read_preprocess

VIT = config("vit")
TIMM = {"input_size": [3, 32, 32]}


def _written(tmp_path: Path, content: Any) -> str:
    path = tmp_path / "config.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


@pytest.mark.parametrize("name", CASES)
def test_inputs_are_those_of_the_library(tmp_path: Path, name: str) -> None:
    is_preset = name == "torchvision"
    prepare = read_preprocess(name if is_preset else _written(tmp_path, config(name)))
    stored = np.load(STORED)
    for height, width in SIZES:
        data = prepare.prepare(image(height, width)[..., ::-1])
        expected = stored[f"{name}/{height}x{width}"]
        assert np.ptp(expected) > 0.5
        # The pixels of 8 bits are the same: one level is 1/255 or more.
        np.testing.assert_allclose(thinned(data), expected, rtol=1e-5, atol=1e-5)


def test_caffe_is_the_way_of_the_paper() -> None:
    expected = Preprocess(227, 227, mean=(104.0, 117.0, 123.0))
    assert read_preprocess("caffe", (227, 227)) == expected
    assert read_preprocess("caffe").shape == (3, 224, 224)


def test_the_size_of_a_net_chooses_that_of_timms_tests(tmp_path: Path) -> None:
    source = _written(
        tmp_path,
        {"pretrained_cfg": {**TIMM, "test_input_size": [3, 48, 48], "crop_pct": 0.9}},
    )
    assert read_preprocess(source).height == 32
    assert read_preprocess(source, (32, 32)).resize == 35
    assert read_preprocess(source, (48, 48)).resize == 53
    with pytest.raises(NetError, match="expected images of 64 x 64"):
        read_preprocess(source, (64, 64))


def test_what_is_not_named_is_read_where_it_is_plain(tmp_path: Path) -> None:
    bare = {key: v for key, v in VIT.items() if key != "image_processor_type"}
    found = read_preprocess(_written(tmp_path, bare))
    assert found == read_preprocess(_written(tmp_path, VIT))
    fast = {**VIT, "image_processor_type": "ViTImageProcessorFast"}
    assert read_preprocess(_written(tmp_path, fast)) == found
    old = {**bare, "feature_extractor_type": "ViTFeatureExtractor"}
    assert read_preprocess(_written(tmp_path, old)) == found
    with pytest.raises(NetError, match="`size` to have shortest_edge"):
        read_preprocess(_written(tmp_path, {**bare, "size": 32}))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "JSON"),
        ("{", "JSON"),
        ("[" * 100_000, "JSON"),
        ('{"a":' * 50_000 + "1" + "}" * 50_000, "JSON"),
        ('{"size": ' + "9" * 10_000 + "}", "JSON"),
        ('{"a": "' + "x" * 2**20 + '"}', "more than"),
        ("\x00\xff", "JSON"),
        ([1], "a JSON object"),
        ({}, "neither `pretrained_cfg` nor `size`"),
        ({"model_type": "vit", "hidden_size": 768}, "neither `pretrained_cfg`"),
        ({"pretrained_cfg": [1]}, "`pretrained_cfg`"),
        ({"pretrained_cfg": {**TIMM, "input_size": 32}}, "`input_size`"),
        ({"pretrained_cfg": {**TIMM, "input_size": [3, 32]}}, "`input_size`"),
        ({"pretrained_cfg": {**TIMM, "input_size": [1, 32, 32]}}, "`input_size`"),
        ({"pretrained_cfg": {**TIMM, "input_size": [3, 0, 32]}}, "`input_size`"),
        ({"pretrained_cfg": {**TIMM, "input_size": [3, 10**9, 32]}}, "`input_size`"),
        ({"pretrained_cfg": {**TIMM, "input_size": [3, 32, 24]}}, "square"),
        ({**TIMM, "crop_pct": 0}, "`crop_pct`"),
        ({**TIMM, "crop_pct": 1.1}, "`crop_pct`"),
        ({**TIMM, "crop_mode": "border"}, "`crop_mode`.*'border'"),
        ({**TIMM, "interpolation": "lanczos"}, "`interpolation`.*'lanczos'"),
        ({**TIMM, "interpolation": ["bicubic"]}, "`interpolation`"),
        ({**TIMM, "mean": [0.5, 0.5]}, "`mean`"),
        ({**TIMM, "mean": [0.5, 0.5, "x"]}, "`mean`"),
        ({**TIMM, "std": [0.5, 0.5, 0]}, "`std`"),
        ('{"input_size": [3, 9, 9], "std": [NaN, 1, 1]}', "`std`"),
        ('{"input_size": [3, 9, 9], "crop_pct": Infinity}', "`crop_pct`"),
        ({**VIT, "image_processor_type": "DetrImageProcessor"}, "'DetrImageProc"),
        ({**VIT, "image_processor_type": {"a": 1}}, "image processor of"),
        ({**VIT, "resample": 0}, "`resample`.*found 0"),
        ({**VIT, "resample": True}, "`resample`"),
        ({**config("efficientnet"), "resample": None}, "`resample`"),
        ({**VIT, "do_resize": False}, "`do_resize`"),
        ({**VIT, "do_resize": "no"}, "`do_resize`"),
        ({**VIT, "do_pad": True}, "`do_pad`"),
        ({**VIT, "size": {"longest_edge": 32}}, "`size`"),
        ({**VIT, "size": {"height": 32}}, "`size`"),
        ({**VIT, "size": {"height": 32, "width": -1}}, "`size`"),
        ({**VIT, "size": "32"}, "`size`"),
        ({**VIT, "size": True}, "`size`"),
        ({**VIT, "size": {"shortest_edge": 32}}, "`do_center_crop`"),
        ({**VIT, "do_center_crop": True}, "`crop_size`"),
        ({**config("beit"), "do_center_crop": None}, "`do_center_crop`"),
        ({**config("siglip"), "size": 32}, "`size`"),
        ({**config("bit"), "crop_size": 64}, "at least the 64 x 64"),
        ({**VIT, "rescale_factor": 0}, "`rescale_factor`"),
        ({**VIT, "rescale_factor": "1/255"}, "`rescale_factor`"),
        ({**VIT, "image_mean": None}, "`image_mean`"),
        ({**VIT, "image_mean": [200, 200, 200]}, "`mean`"),
        ({**VIT, "image_std": [1, 1]}, "`image_std`"),
    ],
    ids=lambda v: str(v)[:30],
)
def test_others_are_refused(tmp_path: Path, content: Any, message: str) -> None:
    source = _written(tmp_path, content)
    with pytest.raises(NetError, match=message) as raised:
        read_preprocess(source)
    assert source in str(raised.value)
    assert len(str(raised.value)) < 700


@pytest.mark.parametrize("source", ["", "none.json", "a\0b", "timm", "a" * 5000, "."])
def test_a_missing_file_is_named(source: str) -> None:
    with pytest.raises(NetError, match="expected torchvision or caffe, or the path"):
        read_preprocess(source)
