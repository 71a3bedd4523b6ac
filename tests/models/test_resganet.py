"""ResGANet: sizes of its relatives, independence of groups, attention in space."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from segmae.models.resganet import GroupConv, ResGANet, SpatialAttention  # noqa: E402


@pytest.mark.parametrize(
    ("units", "groups", "count"),
    [((3, 4, 6, 3), 2, 19_199_384), ((3, 4, 6, 3), 8, 14_906_528), ((3, 4, 23, 3), 4, 28_969_058)],
)
def test_relatives_have_the_sizes_that_were_worked_out(
    units: tuple[int, ...], groups: int, count: int
) -> None:
    with torch.device("meta"):
        encoder = ResGANet(units, groups)
        maps = encoder(torch.zeros(1, 3, 64, 96))
    assert sum(parameter.numel() for parameter in encoder.parameters()) == count
    assert [(x.shape[2], x.shape[3]) for x in maps] == [(16, 24), (8, 12), (4, 6), (4, 6)]


def test_a_group_sees_itself_alone() -> None:
    torch.manual_seed(0)
    layer = GroupConv(64, stride=2, groups=4).eval()
    x = torch.randn(1, 64, 6, 6)
    changed = x.clone()
    changed[:, 16:32] += 1
    with torch.no_grad():
        same = (layer(x) == layer(changed)).all(3).all(2)[0]
    assert same.reshape(4, 16).all(1).tolist() == [True, False, True, True]


def test_spatial_attention_worked_by_hand() -> None:
    gate = SpatialAttention()
    with torch.no_grad():
        gate.conv.weight.zero_()
        gate.conv.weight[0, :, 3, 3] = torch.tensor(
            [1.0, 10.0]
        )  # of the mean and of the maximum, at the position itself
    x = torch.tensor([[1.0, -1.0], [-3.0, 1.4]]).reshape(1, 2, 1, 2)  # two channels, two positions
    # mean -1 and maximum 1: 9; mean 0.2 and maximum 1.4: 14.2
    torch.testing.assert_close(gate(x), x * torch.tensor([9.0, 14.2]).sigmoid(), rtol=1e-5, atol=0)
