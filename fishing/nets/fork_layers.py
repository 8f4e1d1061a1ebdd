"""What forks of Caffe call otherwise, in the words of Caffe 1.0."""

from __future__ import annotations

import re
from typing import Any

from fishing.nets.caffe_messages import PoolingParameter

# ConvolutionDepthwise, DepthwiseConvolution, ConvolutionDepthWise, DepthwiseConv,
# ConvolutionDW, DWConvolution and the like.
_DEPTHWISE = re.compile(
    r"(cudnn)?(conv(olution)?_?(depth_?wise|dw)|(depth_?wise|dw)_?conv(olution)?)"
    r"(layer)?",
    re.IGNORECASE,
)


def translate_forks(net: Any) -> None:
    """Change layers of forks into layers of Caffe that have the same values.

    A depthwise convolution becomes a Convolution with a group for each channel, and
    ``ceil_mode`` of a pooling becomes ``round_mode``. Forks have other ``engine`` and
    ``filler``, which change no value of a trained net, and are left out.
    """
    for layer in net.layer:
        if _DEPTHWISE.fullmatch(layer.type):
            layer.type = "Convolution"
            p = layer.convolution_param
            # Forks that have no `group` here make one map of each channel.
            if p.group == 1:
                p.group = p.num_output
        pooling = layer.pooling_param
        if pooling.HasField("ceil_mode"):
            rounded = "CEIL" if pooling.ceil_mode else "FLOOR"
            pooling.round_mode = PoolingParameter.RoundMode.Value(rounded)
            pooling.ClearField("ceil_mode")
        for _, settings in layer.ListFields():
            fields = getattr(settings, "DESCRIPTOR", None)
            for name in fields.fields_by_name if fields else ():
                if name == "engine" or name.endswith("filler"):
                    settings.ClearField(name)
