"""The losses of section 3.4 of the paper. All are means over the batch, computed in float32.

The `literal_*` switches follow the printed equations where these differ from what the text describes. The losses of the
networks that the paper compares with come after its own.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, distributed

UNKNOWN = -1  # the class index of an image without a label


def temperature_mean(errors: Tensor, beta: float, detach_weights: bool = True) -> Tensor:
    """Mean of patch errors, weighted by their own softmax (eq. 7): `[B,N] -> [B]`.

    Args:
        errors: one error per patch, at least 0.
        beta: temperature; small values put all weight on the worst patch, large ones give the plain mean.
        detach_weights: let no gradient flow through the weights.
    """
    weights = (errors / beta).softmax(1)
    return ((weights.detach() if detach_weights else weights) * errors).sum(1)


def patch_wise_loss(
    logits: Tensor,
    mask: Tensor,
    beta: float = 0.1,
    detach_weights: bool = True,
    literal_eq8: bool = False,
    patch: int = 16,
) -> Tensor:
    """Patch-wise loss, eq. 5-8.

    Args:
        logits: `[B,1,H,W]`.
        mask: `[B,1,H,W]` in {0, 1}.
        beta: see `temperature_mean`.
        detach_weights: see `temperature_mean`.
        literal_eq8: divide by the number of patches once more, as printed, although the weights sum to 1.
        patch: side of a patch in pixels; patches at the right and bottom edge may be smaller.
    """
    squared = (logits.float().sigmoid() - mask.float()).square()
    errors = F.avg_pool2d(squared, patch, ceil_mode=True, count_include_pad=False).flatten(1)
    loss = temperature_mean(errors, beta, detach_weights)
    if literal_eq8:
        loss = loss / errors.shape[1]
    return loss.mean()


def bce_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Binary cross-entropy of logits `[B,1,H,W]` and mask in {0, 1}, mean over pixels (eq. 9 prints the sum)."""
    return F.binary_cross_entropy_with_logits(logits.float(), mask.float())


def dice_loss(logits: Tensor, mask: Tensor, literal_eq10: bool = False, smooth: float = 1.0) -> Tensor:
    """Soft Dice loss of logits and mask `[B,1,H,W]`, per image, then mean (eq. 10).

    `1 - (2 sum(p y) + smooth) / (sum p + sum y + smooth)`, in [0, 1]. With `literal_eq10` the fraction is
    doubled as printed, which moves the range to [-1, 1]. Of soft masks, as teachers give them, it is not least where p = y:
    it pushes p to 0 or 1.
    """
    probability, mask = logits.float().sigmoid().flatten(1), mask.float().flatten(1)
    overlap = 2 * (probability * mask).sum(1) + smooth
    share = overlap / (probability.sum(1) + mask.sum(1) + smooth)
    return (1 - (2 * share if literal_eq10 else share)).mean()


def reconstruction_loss(
    rebuilt: Tensor,
    patches: Tensor,
    visible: Tensor,
    normalize_patches: bool = False,
    weighted: bool = True,
    beta: float = 0.1,
) -> Tensor:
    """Squared error over the hidden patches only (eq. 12 and the paragraph after it).

    Args:
        rebuilt: `[B,N,D]`, the decoder's pixels of every patch.
        patches: `[B,N,D]`, the image's pixels (`patchify`).
        visible: indices `[B,V]` of the patches that the encoder saw.
        normalize_patches: compare with patches scaled to mean 0 and variance 1 (He et al., 2022).
        weighted: weigh the hidden patches by `temperature_mean` instead of equally.
        beta: see `temperature_mean`.
    """
    rebuilt, patches = rebuilt.float(), patches.float()
    if normalize_patches:
        variance, mean = torch.var_mean(patches, dim=2, keepdim=True)
        patches = (patches - mean) / (variance + 1e-6).sqrt()
    errors = (rebuilt - patches).square().mean(2)  # [B,N]
    # [B,N-V], in order: every image hides as many. By indices: a GPU would be waited for to count the trues of a mask.
    order = (
        torch.zeros_like(errors).scatter(1, visible, 1.0).sort(dim=1, stable=True).indices
    )  # the hidden ones first
    errors = errors.gather(1, order[:, : errors.shape[1] - visible.shape[1]])
    return temperature_mean(errors, beta).mean() if weighted else errors.mean()


def edge_target(mask: Tensor) -> Tensor:
    """The boundary of masks `[B,1,H,W]` in {0, 1}: the morphological gradient of a 3x3 square.

    It marks the pixels with both lesion and skin among themselves and their eight neighbours: a line two pixels
    wide, one on each side. The image's border is no boundary.
    """
    return F.max_pool2d(mask, 3, 1, 1) + F.max_pool2d(-mask, 3, 1, 1)


def label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of class logits `[B,K]`, mean over the images whose label is known; 0 if none is."""
    total = F.cross_entropy(logits.float(), labels, ignore_index=UNKNOWN, reduction="sum")
    return total / at_least_one((labels != UNKNOWN).sum())


def at_least_one(count: Tensor) -> Tensor:
    """A count to divide a sum by: at least 1. Of several processes that train, their mean, so that the mean of their
    quotients is the quotient of the joined batch."""
    if not torch.is_grad_enabled() or not (distributed.is_available() and distributed.is_initialized()):
        return count.clamp(min=1)
    total = count.detach().float()
    distributed.all_reduce(total)
    return total.clamp(min=1) / distributed.get_world_size()


def focal_loss(logits: Tensor, mask: Tensor, gamma: float = 2.0) -> Tensor:
    """Focal loss (Lin et al., 2017) as CKDNet balances it: the mean over lesion pixels + the mean over skin pixels."""
    logits, mask = logits.float(), mask.float()
    probability = logits.sigmoid()
    lesion = (1 - probability) ** gamma * F.softplus(-logits) * mask
    skin = probability**gamma * F.softplus(logits) * (1 - mask)
    return lesion.sum() / at_least_one(mask.sum()) + skin.sum() / at_least_one((1 - mask).sum())


def rank_loss(logits: Tensor, mask: Tensor, hardest: int = 30, margin: float = 0.3) -> Tensor:
    """Rank loss of MB-DCNN: the skin pixels surest to be lesion against the lesion pixels least so.

    Per image, the mean over all pairs of the 30 hardest of each of `max(0, p - q + 0.3)`, p of skin, q of lesion.
    """
    probability, mask = logits.float().sigmoid().flatten(1), mask.float().flatten(1)
    hardest = min(hardest, mask.shape[1])
    p = (probability * (1 - mask)).topk(hardest, 1).values
    q = 1 - ((1 - probability) * mask).topk(hardest, 1).values
    return F.relu(p[:, :, None] - q[:, None, :] + margin).mean()


MASK_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"focal": focal_loss, "rank": rank_loss}
