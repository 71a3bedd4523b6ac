"""An equal network with less to do: what does not depend on the image is computed once.

Weight standardisation is a function of the weights alone, and batch norm at test time is a scale and a shift for each
channel, which the convolution before it can carry. Outputs differ by rounding only.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from segmae.models.efficientnet import SameConv
from segmae.models.resnetv2 import StdConv2d, same_pad


class FoldedStdConv2d(nn.Conv2d):
    """A `StdConv2d` whose filters are standardised already."""

    def __init__(self, conv: StdConv2d) -> None:
        kernel, stride = conv.kernel_size[0], conv.stride[0]
        super().__init__(conv.in_channels, conv.out_channels, kernel, stride, bias=False)
        self.weight = nn.Parameter(conv.standardised().detach(), requires_grad=False)
        self.symmetric = stride == 1  # then the convolution itself may pad
        self.padding = (kernel // 2, kernel // 2) if self.symmetric else (0, 0)

    def forward(self, x: Tensor) -> Tensor:
        if not self.symmetric:
            x = same_pad(x, self.kernel_size[0], self.stride[0])
        return F.conv2d(x, self.weight, None, self.stride, self.padding)


@torch.no_grad()
def fold(model: nn.Module) -> nn.Module:
    """A copy for prediction that gives the same logits, within 1e-5 of the largest.

    Args:
        model: any network in eval mode; it stays as it is.

    Returns:
        The copy, frozen and in eval mode. Its state fits no checkpoint: save the network that it was made from.

    Raises:
        ValueError: the network is in training mode, where norms depend on the batch.
    """
    if model.training:
        raise ValueError("fold() takes a network in eval mode: in training, norms depend on the batch")
    folded = copy.deepcopy(model).requires_grad_(False)
    for module in list(folded.modules()):
        if isinstance(module, SameConv):
            module.conv = fuse_conv_bn_eval(module.conv, module.norm)
            module.norm = nn.Identity()  # type: ignore[assignment]
        for name, child in list(module.named_children()):
            if isinstance(child, StdConv2d):
                setattr(module, name, FoldedStdConv2d(child))
        if isinstance(module, nn.Sequential):
            for index, (first, second) in enumerate(zip(module, list(module)[1:], strict=False)):
                if type(first) is nn.Conv2d and isinstance(second, nn.BatchNorm2d):
                    module[index], module[index + 1] = fuse_conv_bn_eval(first, second), nn.Identity()
    return folded.eval()
