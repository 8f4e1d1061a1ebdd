"""Caffe's messages, as far as a trained net needs them: names, numbers and defaults.

What `caffe_text` and `caffe_binary` read becomes a `Message`, whose attributes are the
fields. The layers of before 2014 (``layers``) come out as those of today (``layer``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

#: What a file may hold at most, arrays apart: the largest nets need a tenth of it.
MOST_VALUES = 2**19


@dataclass(frozen=True)
class Field:
    """A field of a message.

    Attributes
    ----------
    number : int
        By which a binary file knows it.
    kind : str
        ``int`` (of 32 bits), ``long`` (of 64), ``bool``, ``float``, ``double``,
        ``string``, the name of one of `ENUMS` or of `MESSAGES`, or ``ignored`` for what
        no reader needs.
    default : object
        What an absent field is; not used for messages and repeated fields.
    many : bool
        Whether the field is repeated.
    """

    number: int
    kind: str
    default: Any = None
    many: bool = False


class Message:
    """A message of a kind in `MESSAGES`; every field of the kind is an attribute.

    An absent field reads as its default, an absent repeated field as an empty list.

    Attributes
    ----------
    kind : str
    fields : dict of str to object
        Those that were present.
    unknown : list of str
        Names (or numbers, as ``#12``) of fields that `MESSAGES` does not know.
    """

    def __init__(self, kind: str, **fields: Any) -> None:
        self.kind = kind
        self.fields = fields
        self.unknown: list[str] = []

    def __getattr__(self, name: str) -> Any:
        field = MESSAGES[self.kind].get(name)
        if field is None:
            raise AttributeError(f"{self.kind} has no field '{name}'")
        if name not in self.fields:
            if field.many:
                self.fields[name] = []
            else:
                return Message(field.kind) if field.kind in MESSAGES else field.default
        return self.fields[name]

    def HasField(self, name: str) -> bool:  # noqa: N802 - as in google.protobuf
        """Say whether a field was present."""
        return name in self.fields

    def strangers(self) -> Iterator[str]:
        """List fields that nothing is known of, here and in the messages within."""
        yield from self.unknown
        for name, value in self.fields.items():
            for part in value if isinstance(value, list) else [value]:
                if isinstance(part, Message):
                    yield from (f"{name}.{stranger}" for stranger in part.strangers())

    def not_finite(self) -> Iterator[str]:
        """List fields that are NaN or infinite, here and in the messages within."""
        for name, value in self.fields.items():
            for part in value if isinstance(value, list) else [value]:
                if isinstance(part, Message):
                    yield from (f"{name}.{field}" for field in part.not_finite())
                elif isinstance(part, float) and not math.isfinite(part):
                    yield name


class Tally:
    """Counts what is made of a file, so that a small one cannot fill the memory."""

    def __init__(self) -> None:
        self._n_values = 0

    def add(self) -> None:
        """Count one value; a ValueError says that it is one too many."""
        self._n_values += 1
        if self._n_values > MOST_VALUES:
            raise ValueError(f"more than {MOST_VALUES} values that are no weights")


def in_range(value: int, kind: str) -> int:
    """Hold a number to the 64 bits of a ``long``, or the 32 of an ``int``."""
    low, high = (-(2**63), 2**63) if kind == "long" else (-(2**31), 2**32)
    if not low <= value < high:
        raise ValueError(f"a number outside of {low} to {high - 1}")
    return value


def upgrade(net: Message) -> Message:
    """Turn the ``layers`` of a net into ``layer``, as Caffe itself does.

    Parameters
    ----------
    net : Message
        A ``NetParameter``; changed and returned.

    Raises
    ------
    ValueError
        If the layers are of the oldest form, a layer within a layer, or of both forms.
    """
    old = net.fields.pop("layers", [])
    if not old:
        return net
    if net.layer:
        raise ValueError("both 'layer' and 'layers'")
    for layer in old:
        if layer.HasField("layer"):
            raise ValueError("layers in the format of 2013")
        fields = dict(layer.fields)
        fields["type"] = _V1_TYPES.get(layer.type, layer.type)
        shared = [Message("ParamSpec", name=name) for name in fields.pop("param", [])]
        new = Message("LayerParameter", **fields, param=shared)
        new.unknown = layer.unknown
        net.layer.append(new)
    return net


def _many(number: int, kind: str) -> Field:
    return Field(number, kind, many=True)


def _ignored(**numbers: int) -> dict[str, Field]:
    """Declare fields that are part of the format and mean nothing for a result."""
    return {name: Field(number, "ignored") for name, number in numbers.items()}


ENUMS: dict[str, dict[str, int]] = {
    "Phase": {"TRAIN": 0, "TEST": 1},
    "PoolMethod": {"MAX": 0, "AVE": 1, "STOCHASTIC": 2},
    "RoundMode": {"CEIL": 0, "FLOOR": 1},
    "NormRegion": {"ACROSS_CHANNELS": 0, "WITHIN_CHANNEL": 1},
    "EltwiseOp": {"PROD": 0, "SUM": 1, "MAX": 2},
    "V1Type": {
        "NONE": 0, "ACCURACY": 1, "BNLL": 2, "CONCAT": 3, "CONVOLUTION": 4, "DATA": 5,
        "DROPOUT": 6, "EUCLIDEAN_LOSS": 7, "FLATTEN": 8, "HDF5_DATA": 9,
        "HDF5_OUTPUT": 10, "IM2COL": 11, "IMAGE_DATA": 12, "INFOGAIN_LOSS": 13,
        "INNER_PRODUCT": 14, "LRN": 15, "MULTINOMIAL_LOGISTIC_LOSS": 16, "POOLING": 17,
        "RELU": 18, "SIGMOID": 19, "SOFTMAX": 20, "SOFTMAX_LOSS": 21, "SPLIT": 22,
        "TANH": 23, "WINDOW_DATA": 24, "ELTWISE": 25, "POWER": 26,
        "SIGMOID_CROSS_ENTROPY_LOSS": 27, "HINGE_LOSS": 28, "MEMORY_DATA": 29,
        "ARGMAX": 30, "THRESHOLD": 31, "DUMMY_DATA": 32, "SLICE": 33, "MVN": 34,
        "ABSVAL": 35, "SILENCE": 36, "CONTRASTIVE_LOSS": 37, "EXP": 38,
        "DECONVOLUTION": 39,
    },
}  # fmt: skip
# The types that are converted; others are refused by the name that they have here.
_V1_TYPES = {
    "CONCAT": "Concat", "CONVOLUTION": "Convolution", "DROPOUT": "Dropout",
    "ELTWISE": "Eltwise", "FLATTEN": "Flatten", "INNER_PRODUCT": "InnerProduct",
    "LRN": "LRN", "POOLING": "Pooling", "RELU": "ReLU", "SIGMOID": "Sigmoid",
    "SOFTMAX": "Softmax", "SPLIT": "Split", "TANH": "TanH",
}  # fmt: skip

# The parameters of converted layers: their number in today's layers and in V1 layers.
_PARAMETERS = {
    "batch_norm_param": (139, None, "BatchNormParameter"),
    "concat_param": (104, 9, "ConcatParameter"),
    "convolution_param": (106, 10, "ConvolutionParameter"),
    "eltwise_param": (110, 24, "EltwiseParameter"),
    "elu_param": (140, None, "ELUParameter"),
    "flatten_param": (135, None, "FlattenParameter"),
    "inner_product_param": (117, 17, "InnerProductParameter"),
    "input_param": (143, None, "InputParameter"),
    "lrn_param": (118, 18, "LRNParameter"),
    "pooling_param": (121, 19, "PoolingParameter"),
    "prelu_param": (131, None, "PReLUParameter"),
    "relu_param": (123, 30, "ReLUParameter"),
    "reshape_param": (133, None, "ReshapeParameter"),
    "scale_param": (142, None, "ScaleParameter"),
    "softmax_param": (125, 39, "SoftmaxParameter"),
}

MESSAGES: dict[str, dict[str, Field]] = {
    "NetParameter": {
        "name": Field(1, "string", ""),
        "layers": _many(2, "V1LayerParameter"),
        "input": _many(3, "string"),
        "input_dim": _many(4, "int"),
        "state": Field(6, "NetState"),
        "input_shape": _many(8, "BlobShape"),
        "layer": _many(100, "LayerParameter"),
        **_ignored(force_backward=5, debug_info=7),
    },
    "LayerParameter": {
        "name": Field(1, "string", ""),
        "type": Field(2, "string", ""),
        "bottom": _many(3, "string"),
        "top": _many(4, "string"),
        "param": _many(6, "ParamSpec"),
        "blobs": _many(7, "BlobProto"),
        "include": _many(8, "NetStateRule"),
        "exclude": _many(9, "NetStateRule"),
        "phase": Field(10, "Phase", "TRAIN"),
        **{name: Field(new, kind) for name, (new, _, kind) in _PARAMETERS.items()},
        **_ignored(
            loss_weight=5, propagate_down=11, transform_param=100, loss_param=101,
            accuracy_param=102, argmax_param=103, contrastive_loss_param=105,
            data_param=107, dropout_param=108, dummy_data_param=109, exp_param=111,
            hdf5_data_param=112, hdf5_output_param=113, hinge_loss_param=114,
            image_data_param=115, infogain_loss_param=116, memory_data_param=119,
            mvn_param=120, power_param=122, sigmoid_param=124, slice_param=126,
            tanh_param=127, threshold_param=128, window_data_param=129,
            python_param=130, spp_param=132, log_param=134, reduction_param=136,
            embed_param=137, tile_param=138, bias_param=141, crop_param=144,
            parameter_param=145, recurrent_param=146, swish_param=147, clip_param=148,
        ),
    },
    "V1LayerParameter": {
        "layer": Field(1, "ignored"),
        "bottom": _many(2, "string"),
        "top": _many(3, "string"),
        "name": Field(4, "string", ""),
        "type": Field(5, "V1Type", "NONE"),
        "blobs": _many(6, "BlobProto"),
        "include": _many(32, "NetStateRule"),
        "exclude": _many(33, "NetStateRule"),
        "param": _many(1001, "string"),
        **{name: Field(v1, kind) for name, (_, v1, kind) in _PARAMETERS.items() if v1},
        **_ignored(
            blobs_lr=7, weight_decay=8, data_param=11, dropout_param=12,
            hdf5_data_param=13, hdf5_output_param=14, image_data_param=15,
            infogain_loss_param=16, window_data_param=20, power_param=21,
            memory_data_param=22, argmax_param=23, threshold_param=25,
            dummy_data_param=26, accuracy_param=27, hinge_loss_param=29,
            slice_param=31, mvn_param=34, loss_weight=35, transform_param=36,
            tanh_param=37, sigmoid_param=38, contrastive_loss_param=40, exp_param=41,
            loss_param=42, blob_share_mode=1002,
        ),
    },
    "BlobShape": {"dim": _many(1, "long")},
    "BlobProto": {
        "num": Field(1, "int", 0),
        "channels": Field(2, "int", 0),
        "height": Field(3, "int", 0),
        "width": Field(4, "int", 0),
        "data": _many(5, "float"),
        "shape": Field(7, "BlobShape"),
        "double_data": _many(8, "double"),
        **_ignored(diff=6, double_diff=9),
    },
    "ParamSpec": {
        "name": Field(1, "string", ""),
        **_ignored(share_mode=2, lr_mult=3, decay_mult=4),
    },
    "NetState": {
        "phase": Field(1, "Phase", "TEST"),
        "level": Field(2, "int", 0),
        "stage": _many(3, "string"),
    },
    "NetStateRule": {
        "phase": Field(1, "Phase", "TRAIN"),
        "min_level": Field(2, "int", 0),
        "max_level": Field(3, "int", 0),
        "stage": _many(4, "string"),
        "not_stage": _many(5, "string"),
    },
    "BatchNormParameter": {
        "use_global_stats": Field(1, "bool", False),
        "eps": Field(3, "float", 1e-5),
        **_ignored(moving_average_fraction=2),
    },
    "ConcatParameter": {
        "concat_dim": Field(1, "int", 1),
        "axis": Field(2, "int", 1),
    },
    "ConvolutionParameter": {
        "num_output": Field(1, "int", 0),
        "bias_term": Field(2, "bool", True),
        "pad": _many(3, "int"),
        "kernel_size": _many(4, "int"),
        "group": Field(5, "int", 1),
        "stride": _many(6, "int"),
        "pad_h": Field(9, "int", 0),
        "pad_w": Field(10, "int", 0),
        "kernel_h": Field(11, "int", 0),
        "kernel_w": Field(12, "int", 0),
        "stride_h": Field(13, "int", 0),
        "stride_w": Field(14, "int", 0),
        "axis": Field(16, "int", 1),
        "dilation": _many(18, "int"),
        **_ignored(weight_filler=7, bias_filler=8, engine=15, force_nd_im2col=17),
    },
    "EltwiseParameter": {
        "operation": Field(1, "EltwiseOp", "SUM"),
        "coeff": _many(2, "float"),
        **_ignored(stable_prod_grad=3),
    },
    "ELUParameter": {"alpha": Field(1, "float", 1.0)},
    "FlattenParameter": {
        "axis": Field(1, "int", 1),
        "end_axis": Field(2, "int", -1),
    },
    "InnerProductParameter": {
        "num_output": Field(1, "int", 0),
        "bias_term": Field(2, "bool", True),
        "axis": Field(5, "int", 1),
        "transpose": Field(6, "bool", False),
        **_ignored(weight_filler=3, bias_filler=4),
    },
    "InputParameter": {"shape": _many(1, "BlobShape")},
    "LRNParameter": {
        "local_size": Field(1, "int", 5),
        "alpha": Field(2, "float", 1.0),
        "beta": Field(3, "float", 0.75),
        "norm_region": Field(4, "NormRegion", "ACROSS_CHANNELS"),
        "k": Field(5, "float", 1.0),
        **_ignored(engine=6),
    },
    "PoolingParameter": {
        "pool": Field(1, "PoolMethod", "MAX"),
        "kernel_size": Field(2, "int", 0),
        "stride": Field(3, "int", 1),
        "pad": Field(4, "int", 0),
        "kernel_h": Field(5, "int", 0),
        "kernel_w": Field(6, "int", 0),
        "stride_h": Field(7, "int", 0),
        "stride_w": Field(8, "int", 0),
        "pad_h": Field(9, "int", 0),
        "pad_w": Field(10, "int", 0),
        "global_pooling": Field(12, "bool", False),
        "round_mode": Field(13, "RoundMode", "CEIL"),
        **_ignored(engine=11),
    },
    "PReLUParameter": {
        "channel_shared": Field(2, "bool", False),
        **_ignored(filler=1),
    },
    "ReLUParameter": {
        "negative_slope": Field(1, "float", 0.0),
        **_ignored(engine=2),
    },
    "ReshapeParameter": {
        "shape": Field(1, "BlobShape"),
        "axis": Field(2, "int", 0),
        "num_axes": Field(3, "int", -1),
    },
    "ScaleParameter": {
        "axis": Field(1, "int", 1),
        "num_axes": Field(2, "int", 1),
        "bias_term": Field(4, "bool", False),
        **_ignored(filler=3, bias_filler=5),
    },
    "SoftmaxParameter": {
        "axis": Field(2, "int", 1),
        "temperature": Field(2015, "float", 1.0),
        **_ignored(engine=1),
    },
}  # fmt: skip
