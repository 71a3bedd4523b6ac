"""Every loss against numbers worked out by hand (in the comments) and its gradient against finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from segmae.config import Losses
from segmae.losses import (
    bce_loss,
    dice_loss,
    edge_target,
    focal_loss,
    label_loss,
    patch_wise_loss,
    rank_loss,
    reconstruction_loss,
    temperature_mean,
)
from segmae.mask_loss import segmentation_loss

THIRD = math.log(3)  # the logit of probability 3/4; its negative is that of 1/4


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Switch the casts to float32 off: finite differences need the digits of float64."""
    monkeypatch.setattr(torch.Tensor, "float", lambda self: self)


def logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


def four_patches(probabilities: tuple[float, float, float, float]) -> Tensor:
    """Logits `[1,1,32,32]`: 2 x 2 patches of 16 x 16, each of one probability."""
    grid = torch.tensor([logit(p) for p in probabilities]).reshape(1, 1, 2, 2)
    return grid.repeat_interleave(16, 2).repeat_interleave(16, 3)


def close(value: Tensor, wanted: float) -> bool:
    return float(value) == pytest.approx(wanted, abs=2e-6)


# --- temperature softmax -------------------------------------------------------------------------------------------


def test_temperature_mean_by_hand() -> None:
    # errors .1 and .2 at beta .1: weights e^1 / (e^1 + e^2) = .2689414 and .7310586,
    # mean .1 * .2689414 + .2 * .7310586 = .1731059
    assert close(temperature_mean(torch.tensor([[0.1, 0.2]]), 0.1)[0], 0.1731059)


def test_temperature_runs_from_the_worst_patch_to_the_plain_mean() -> None:
    errors = torch.tensor([[0.1, 0.2, 0.6]])
    assert close(temperature_mean(errors, 1e-3)[0], 0.6)
    assert float(temperature_mean(errors, 1e4)[0]) == pytest.approx(0.3, abs=1e-4)


def test_detached_weights_are_constants_of_the_gradient() -> None:
    errors = torch.tensor([[0.1, 0.2]], requires_grad=True)
    (gradient,) = torch.autograd.grad(temperature_mean(errors, 0.1, detach_weights=True).sum(), errors)
    torch.testing.assert_close(gradient, torch.tensor([[0.2689414, 0.7310586]]))  # the weights themselves
    # else: w_i (1 + (e_i - mean) / beta) = .2689414 * (1 - .731059) and .7310586 * (1 + .268941)
    (gradient,) = torch.autograd.grad(temperature_mean(errors, 0.1, detach_weights=False).sum(), errors)
    torch.testing.assert_close(gradient, torch.tensor([[0.0723295, 0.9276705]]))


# --- patch-wise ----------------------------------------------------------------------------------------------------

PROBABILITIES = (0.1, 0.2, 0.3, 0.4)
# mask empty, so the patch errors are .01, .04, .09, .16; at beta .1 their weights are in proportion to
# e^.1 = 1.1051709, e^.4 = 1.4918247, e^.9 = 2.4596031, e^1.6 = 4.9530324, together 10.0096311;
# loss (.01 * 1.1051709 + .04 * 1.4918247 + .09 * 2.4596031 + .16 * 4.9530324) / 10.0096311 = .1083530
BY_HAND = 0.1083530


def test_patch_wise_by_hand() -> None:
    logits, mask = four_patches(PROBABILITIES), torch.zeros(1, 1, 32, 32)
    assert close(patch_wise_loss(logits, mask), BY_HAND)
    assert close(patch_wise_loss(-logits, 1 - mask), BY_HAND)  # the same errors on a full mask


def test_patch_wise_is_a_mean_over_the_batch() -> None:
    # the second image: probability .5 everywhere, so every error and their mean are .25
    logits = torch.cat([four_patches(PROBABILITIES), torch.zeros(1, 1, 32, 32)])
    assert close(patch_wise_loss(logits, torch.zeros(2, 1, 32, 32)), (BY_HAND + 0.25) / 2)


def test_literal_eq8_divides_by_the_number_of_patches() -> None:
    logits, mask = four_patches(PROBABILITIES), torch.zeros(1, 1, 32, 32)
    assert close(patch_wise_loss(logits, mask, literal_eq8=True), BY_HAND / 4)


def test_patch_wise_averages_inside_a_patch_before_weighing() -> None:
    logits = torch.zeros(1, 1, 32, 32)  # probability .5: every pixel is wrong by .25, whatever the mask
    mask = (torch.rand(1, 1, 32, 32) > 0.5).float()
    assert close(patch_wise_loss(logits, mask), 0.25)
    # one patch half wrong (p = .2 and .8 on an empty mask: mean of .04 and .64 = .34), the others right (p = .2: .04);
    # weights at beta .1: e^3.4 = 29.9641 and three e^.4 = 1.4918247: (.34 * 29.9641 + .12 * 1.4918247) / 34.4395741
    logits[:] = logit(0.2)
    logits[:, :, :8, :16] = logit(0.8)
    assert close(patch_wise_loss(logits, torch.zeros(1, 1, 32, 32)), 0.3010136)


def test_patches_at_the_edge_count_their_own_pixels() -> None:
    logits = torch.full((1, 1, 24, 16), logit(0.2))  # patches of 16 x 16 (error .04) and 8 x 16 (error .25)
    logits[:, :, 16:] = 0.0
    # weights at beta .1: e^.4 = 1.4918247, e^2.5 = 12.1824940: (.04 * 1.4918247 + .25 * 12.182494) / 13.6743187
    assert close(patch_wise_loss(logits, torch.zeros(1, 1, 24, 16)), 0.2270894)


def test_beta_moves_the_weight_to_the_worst_patch() -> None:
    logits, mask = four_patches(PROBABILITIES), torch.zeros(1, 1, 32, 32)
    losses = [float(patch_wise_loss(logits, mask, beta=beta)) for beta in (1e-3, 0.05, 0.1, 0.5, 1.0, 1e4)]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] == pytest.approx(0.16, abs=1e-5) and losses[-1] == pytest.approx(0.075, abs=1e-5)


def test_patch_wise_gradient_with_and_without_detached_weights() -> None:
    logits, mask = four_patches(PROBABILITIES).requires_grad_(), torch.zeros(1, 1, 32, 32)
    slope = {}
    for detach in (True, False):
        (gradient,) = torch.autograd.grad(patch_wise_loss(logits, mask, detach_weights=detach), logits)
        slope[detach] = gradient[0, 0, ::16, ::16].flatten() * 256  # of a whole patch
    probability = torch.tensor(PROBABILITIES)
    error, weight = probability**2, torch.tensor([1.1051709, 1.4918247, 2.4596031, 4.9530324]) / 10.0096311
    inner = 2 * probability * probability * (1 - probability)  # d p^2 / d logit
    torch.testing.assert_close(slope[True], weight * inner)
    torch.testing.assert_close(slope[False], weight * (1 + (error - BY_HAND) / 0.1) * inner)


# --- BCE and Dice --------------------------------------------------------------------------------------------------


def test_bce_by_hand() -> None:
    # probability 3/4: -ln(3/4) = .2876821 on lesion, -ln(1/4) = 1.3862944 on skin; mean of one each .8369882
    logits = torch.full((1, 1, 1, 2), THIRD)
    assert close(bce_loss(logits, torch.tensor([1.0, 0.0]).reshape(1, 1, 1, 2)), 0.8369882)
    assert close(bce_loss(torch.zeros(2, 1, 4, 4), torch.ones(2, 1, 4, 4)), math.log(2))


def test_dice_by_hand() -> None:
    # p = 3/4 on 4 pixels, 2 of them lesion: (2 * 1.5 + 1) / (3 + 2 + 1) = 2/3
    logits, mask = torch.full((1, 1, 2, 2), THIRD), torch.tensor([[1.0, 1.0], [0.0, 0.0]]).reshape(1, 1, 2, 2)
    assert close(dice_loss(logits, mask), 1 / 3)
    assert close(dice_loss(logits, mask, smooth=0.0), 1 - 3 / 5)
    assert close(dice_loss(logits, mask, literal_eq10=True), 1 - 4 / 3)
    # a second image, p = 1/4 and no lesion: (0 + 1) / (1 + 0 + 1) = 1/2. Per image, then mean
    both = torch.cat([logits, -logits]), torch.cat([mask, torch.zeros_like(mask)])
    assert close(dice_loss(*both), (1 / 3 + 1 / 2) / 2)


def test_range_of_dice_as_meant_and_as_printed() -> None:
    mask = torch.zeros(1, 1, 64, 64)
    mask[:, :, :32] = 1
    right, wrong = (mask * 2 - 1) * 50, (1 - mask * 2) * 50
    assert close(dice_loss(right, mask), 0) and close(dice_loss(right, mask, literal_eq10=True), -1)
    for literal in (False, True):
        assert float(dice_loss(wrong, mask, literal_eq10=literal)) == pytest.approx(1, abs=1e-3)


# --- all of them ---------------------------------------------------------------------------------------------------

SEGMENTATION = {
    "bce": bce_loss,
    "dice": dice_loss,
    "dice as printed": lambda logits, mask: dice_loss(logits, mask, literal_eq10=True),
    "patch-wise": lambda logits, mask: patch_wise_loss(logits, mask, patch=2),
    "patch-wise, weights with gradient": lambda logits, mask: patch_wise_loss(
        logits, mask, detach_weights=False, patch=2
    ),
    "patch-wise as printed": lambda logits, mask: patch_wise_loss(logits, mask, literal_eq8=True, patch=2),
}
Loss = Callable[[Tensor, Tensor], Tensor]


@pytest.mark.parametrize("loss", SEGMENTATION.values(), ids=SEGMENTATION.keys())
@pytest.mark.parametrize("lesion", [0.0, 1.0])
def test_empty_and_full_masks_and_extreme_logits_stay_finite(loss: Loss, lesion: float) -> None:
    mask = torch.full((2, 1, 4, 4), lesion)
    for value in (0.0, 1e4, -1e4):
        logits = torch.full((2, 1, 4, 4), value, requires_grad=True)
        result = loss(logits, mask)
        result.backward()
        assert result.isfinite() and logits.grad is not None and logits.grad.isfinite().all()


@pytest.mark.parametrize("loss", SEGMENTATION.values(), ids=SEGMENTATION.keys())
def test_half_precision_is_computed_in_float32(loss: Loss) -> None:
    logits, mask = torch.randn(2, 1, 8, 8).bfloat16(), (torch.rand(2, 1, 8, 8) > 0.5).to(torch.uint8)
    result = loss(logits, mask)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, loss(logits.float(), mask.float()), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["bce", "dice", "dice as printed", "patch-wise, weights with gradient"])
def test_gradients_against_finite_differences(in_float64: None, name: str) -> None:
    logits = torch.randn(2, 1, 5, 4, dtype=torch.float64, requires_grad=True)  # patches at the edge included
    mask = (torch.rand(2, 1, 5, 4) > 0.5).double()
    assert torch.autograd.gradcheck(lambda value: SEGMENTATION[name](value, mask), logits)


def test_losses_fall_towards_the_mask() -> None:
    mask = torch.zeros(1, 1, 32, 32)
    mask[:, :, 8:24, 8:24] = 1
    for loss in SEGMENTATION.values():
        steps = [float(loss((mask * 2 - 1) * confidence, mask)) for confidence in (-2.0, 0.0, 2.0, 4.0)]
        assert steps == sorted(steps, reverse=True)


def test_eq_11_adds_the_three_losses_by_their_weights() -> None:
    logits, mask = torch.randn(2, 1, 32, 32), (torch.rand(2, 1, 32, 32) > 0.5).float()
    losses = [loss(logits, mask) for loss in (bce_loss, dice_loss, patch_wise_loss)]
    found, parts = segmentation_loss(logits, mask, Losses(bce=1.2, dice=0.4, patch=0.8))
    assert close(found, float(1.2 * losses[0] + 0.4 * losses[1] + 0.8 * losses[2]))
    assert list(parts.values()) == losses


# --- reconstruction ------------------------------------------------------------------------------------------------


def flat_patches(*values: float, size: int = 8) -> Tensor:
    """`[1,N,size]`: patches of one value each."""
    return torch.tensor(values)[None, :, None].expand(1, -1, size).clone()


def test_reconstruction_by_hand() -> None:
    # four patches, the last two hidden, rebuilt as 0: errors .1 and .2
    patches, rebuilt = flat_patches(5.0, 7.0, math.sqrt(0.1), math.sqrt(0.2)), torch.zeros(1, 4, 8)
    visible = torch.tensor([[1, 0]])
    assert close(reconstruction_loss(rebuilt, patches, visible, weighted=False), 0.15)
    assert close(
        reconstruction_loss(rebuilt, patches, visible, weighted=True, beta=0.1), 0.1731059
    )  # see above
    assert close(reconstruction_loss(rebuilt, patches, visible, weighted=True, beta=1e-3), 0.2)


def test_reconstruction_weighs_each_image_by_itself() -> None:
    patches = torch.cat([flat_patches(0.0, math.sqrt(0.1), math.sqrt(0.2)), flat_patches(1.0, 3.0, 1.0)])
    visible = torch.tensor([[0], [1]])  # the second image: both hidden patches are wrong by 1
    assert close(reconstruction_loss(torch.zeros(2, 3, 8), patches, visible), (0.1731059 + 1) / 2)
    assert close(reconstruction_loss(torch.zeros(2, 3, 8), patches, visible, weighted=False), (0.15 + 1) / 2)


def test_normalised_patches_by_hand() -> None:
    # the hidden patch (1, 3): mean 2, variance 2 (n - 1), so (-.7071068, .7071068); rebuilt 0: error .5
    patches = torch.tensor([[[9.0, 9.0], [1.0, 3.0]]])
    visible, rebuilt = torch.tensor([[0]]), torch.zeros(1, 2, 2)
    assert close(reconstruction_loss(rebuilt, patches, visible, normalize_patches=True), 0.5)
    assert close(reconstruction_loss(rebuilt, patches, visible), (1 + 9) / 2)
    brighter = reconstruction_loss(rebuilt, patches * 7 + 3, visible, normalize_patches=True)
    assert close(brighter, 0.5)  # brightness and contrast of a patch do not count
    flat = reconstruction_loss(rebuilt, flat_patches(9.0, 3.0, size=2), visible, normalize_patches=True)
    assert close(flat, 0)  # and a patch of one colour does not divide by zero


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("normalize", [True, False])
def test_visible_patches_have_no_part(weighted: bool, normalize: bool) -> None:
    patches, rebuilt = torch.randn(2, 6, 12), torch.randn(2, 6, 12, requires_grad=True)
    visible = torch.tensor([[4, 1], [0, 5]])
    loss = reconstruction_loss(rebuilt, patches, visible, normalize, weighted)
    (gradient,) = torch.autograd.grad(loss, rebuilt)
    places = visible[:, :, None].expand(-1, -1, 12)
    assert not gradient.gather(1, places).any()
    assert (gradient.abs().sum(2) > 0).sum() == 2 * 4  # all hidden ones have
    noisy = patches.scatter(1, places, 100.0)
    torch.testing.assert_close(reconstruction_loss(rebuilt, noisy, visible, normalize, weighted), loss)
    flipped = reconstruction_loss(rebuilt, patches, visible.flip(1), normalize, weighted)
    torch.testing.assert_close(flipped, loss)


@pytest.mark.parametrize("normalize", [True, False])
def test_gradient_of_plain_reconstruction_against_finite_differences(
    in_float64: None, normalize: bool
) -> None:
    rebuilt = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    patches, visible = torch.randn(2, 4, 3, dtype=torch.float64), torch.tensor([[0], [2]])
    assert torch.autograd.gradcheck(
        lambda value: reconstruction_loss(value, patches, visible, normalize, weighted=False), rebuilt
    )


def test_gradient_of_weighted_reconstruction_treats_weights_as_constants() -> None:
    patches = flat_patches(0.0, math.sqrt(0.1), math.sqrt(0.2))
    rebuilt = torch.zeros(1, 3, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(reconstruction_loss(rebuilt, patches, torch.tensor([[0]])), rebuilt)
    # d error / d value = -2 * value / 8; the weights as in test_temperature_mean_by_hand
    wanted = [0, -0.2689414 * 2 * math.sqrt(0.1) / 8, -0.7310586 * 2 * math.sqrt(0.2) / 8]
    torch.testing.assert_close(gradient, flat_patches(*wanted))


# --- losses of other networks ---------------------------------------------------------------------------------------


def test_the_edge_is_a_line_of_two_pixels_that_leaves_out_the_images_border() -> None:
    mask = torch.tensor([[1, 1, 0, 0, 0],
                         [1, 1, 0, 0, 0],
                         [0, 0, 0, 0, 0],
                         [0, 0, 0, 0, 0]])  # fmt: skip
    edge = torch.tensor([[0, 1, 1, 0, 0],
                         [1, 1, 1, 0, 0],
                         [1, 1, 1, 0, 0],
                         [0, 0, 0, 0, 0]])  # fmt: skip
    assert torch.equal(edge_target(mask[None, None].float()), edge[None, None].float())


def test_the_label_loss_is_a_mean_over_known_labels() -> None:
    logits = torch.tensor([[0.0, math.log(2)], [5.0, 5.0], [0.0, 0.0]], requires_grad=True)
    loss = label_loss(logits, torch.tensor([0, -1, 1]))  # probabilities 1/3 and 1/2 of the truth
    assert loss.item() == pytest.approx((math.log(3) + math.log(2)) / 2)
    nothing = label_loss(logits, torch.tensor([-1, -1, -1]))
    nothing.backward()
    assert nothing.item() == 0 and not logits.grad.any()


def test_the_focal_loss_balances_lesion_and_skin() -> None:
    # one lesion pixel with p = 3/4, three skin pixels with p = 1/2, 1/2, 1/4
    logits = torch.tensor([math.log(3), 0.0, 0.0, -math.log(3)]).reshape(1, 1, 2, 2)
    mask = torch.tensor([1.0, 0, 0, 0]).reshape(1, 1, 2, 2)
    lesion = (1 / 4) ** 2 * -math.log(3 / 4)
    skin = (2 * (1 / 2) ** 2 * math.log(2) + (1 / 4) ** 2 * -math.log(3 / 4)) / 3
    assert focal_loss(logits, mask).item() == pytest.approx(lesion + skin)
    assert focal_loss(logits, torch.zeros_like(mask)).isfinite()


def test_the_rank_loss_compares_the_hardest_pixels_of_each_side() -> None:
    # lesion .9 .8 .2, skin .7 .1 .1: the two hardest are q = .2, .8 and p = .7, .1
    probability = torch.tensor([0.9, 0.8, 0.2, 0.7, 0.1, 0.1])
    mask = torch.tensor([1.0, 1, 1, 0, 0, 0]).reshape(1, 1, 2, 3)
    pairs = [0.7 - 0.2 + 0.3, 0.7 - 0.8 + 0.3, 0.1 - 0.2 + 0.3, 0.0]
    loss = rank_loss(torch.logit(probability).reshape(1, 1, 2, 3), mask, hardest=2)
    assert loss.item() == pytest.approx(sum(pairs) / 4)
