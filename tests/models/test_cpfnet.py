"""CPFNet: the two pyramids worked by hand, and which levels guide which skip."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402

from segmae.models.cpfnet import GPG, SAP, CPFNet  # noqa: E402


def test_the_scale_aware_pyramid_worked_by_hand() -> None:
    pyramid = SAP(2).eval()
    pyramid.last = nn.Identity()
    with torch.no_grad():
        for parameter in pyramid.conv.parameters():
            parameter.zero_()
        pyramid.conv.weight[:, :, 1, 2] = (
            1.0  # the right neighbour, at a distance of 1, 2 and 4, of both channels
        )
        pyramid.conv.bias.fill_(10.0)
        for parameter in pyramid.attention.parameters():
            parameter.zero_()
        pyramid.attention[-1].bias.copy_(torch.tensor([3.0, 1.0]).log())  # shares of 3/4 and 1/4, both times
        x = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0]).expand(1, 2, 1, 5)
        assert torch.equal(pyramid(x), x)  # gamma starts at 0
        pyramid.gamma.fill_(0.5)
        # at the left end both channels give 2 * 2 + 10 = 14 (the bias is added once), 2 * 4 = 8, 2 * 16 = 32
        mix = 0.75 * (0.75 * 14 + 0.25 * 8) + 0.25 * 32
        torch.testing.assert_close(pyramid(x)[0, 0, 0, 0].item(), 0.5 * mix + 0.5 * 1, rtol=1e-4, atol=0)


def test_guidance_joins_the_deepest_level_first_and_dilates_by_1_2_4() -> None:
    guide = GPG((2, 3, 4), width=5).eval()
    assert [branch[0].dilation[0] for branch in guide.branches] == [1, 2, 4]
    seen: list[Tensor] = []
    guide.branches[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    maps = [torch.randn(1, channels, 8 // 2**n, 12 // 2**n) for n, channels in enumerate((2, 3, 4))]
    with torch.no_grad():
        assert guide(maps).shape == (1, 5, 8, 12)
        fine, middle, deep = (reduce(x) for reduce, x in zip(guide.reduce, maps, strict=True))
    up = nn.UpsamplingBilinear2d(size=(8, 12))  # corners aligned
    torch.testing.assert_close(seen[0], torch.cat([up(deep), up(middle), fine], 1))


def test_each_step_up_adds_the_guidance_of_its_size_and_the_last_the_stem() -> None:
    torch.manual_seed(0)
    model = CPFNet(18).eval()
    guidance: list[Tensor] = []
    reduced: list[Tensor] = []
    joined: list[Tensor] = []
    for module in model.guide:
        module.register_forward_hook(lambda _, args, out: guidance.append(out))
    for module in model.reduce:
        module.register_forward_hook(lambda _, args, out: reduced.append(out))
    for module in model.refine[1:]:
        module.register_forward_pre_hook(lambda _, args: joined.append(args[0]))
    model.head.register_forward_pre_hook(lambda _, args: joined.append(args[0]))
    image = torch.randn(1, 3, 32, 64)
    with torch.no_grad():
        model(image)
        stem = model.encoder(image)[0]
    assert [len(module.reduce) for module in model.guide] == [4, 3, 2]
    for index in range(3):  # strides 16, 8, 4
        assert torch.equal(joined[index], (reduced[index] + guidance[2 - index]).relu())
    up = nn.UpsamplingBilinear2d(scale_factor=2)
    torch.testing.assert_close(joined[3], up(reduced[3] + stem))
