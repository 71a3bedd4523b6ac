"""What is wrong with a model's name or options is said, with the nearest name."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from segmae.errors import ConfigError  # noqa: E402
from segmae.models import KINDS, create_model, list_models, model_function, network_class, option_names  # noqa: E402
from segmae.models.table import TABLE, Entry  # noqa: E402


def test_the_nearest_name_is_given() -> None:
    with pytest.raises(ConfigError, match=r"unknown model 'unett'\. Did you mean 'unet'\?"):
        create_model("unett")


@pytest.mark.parametrize(
    ("name", "wrong", "near"),
    [
        ("unet", "width", "widths"),
        ("segmae-tiny", "dept", "depth"),  # of the class that the function hands its options on to
        ("um-mae-swin", "windows", "window"),
    ],
)
def test_an_option_that_the_network_lacks_is_named_with_the_nearest_one(
    name: str, wrong: str, near: str
) -> None:
    with pytest.raises(
        ConfigError, match=rf"'{name}' has no option '{wrong}'\. Did you mean '{near}'\?.*It has"
    ):
        create_model(name, **{wrong: 8})


def test_a_kind_that_there_is_not_is_refused_with_those_that_there_are() -> None:
    assert sorted(name for kind in KINDS for name in list_models(kind)) == sorted(list_models())
    with pytest.raises(ConfigError, match="kind 'foo': choose segmentation or pretraining"):
        list_models("foo")


@pytest.mark.parametrize("entry", TABLE, ids=lambda entry: entry.name)
def test_the_class_of_every_rows_network_is_known(entry: Entry) -> None:
    found = network_class(entry.name)
    assert found is not None and issubclass(found, torch.nn.Module)


def test_what_a_function_gives_itself_is_no_option() -> None:
    assert option_names(model_function("um-mae-swin")) == ["window", "decoder"]


def test_a_network_without_options_says_so() -> None:
    with pytest.raises(ConfigError, match=r"'dinov2-linear' has no option 'depth'\. It has none"):
        create_model("dinov2-linear", depth=2)


def test_the_options_of_every_row_are_known() -> None:
    assert [row.name for row in TABLE if option_names(model_function(row.name)) is None] == []


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("unet", {"widths": 8}),
        ("unetplusplus", {"widths": ()}),
        ("medt", {"side": 100}),
        ("cpfnet", {"depth": 20}),
    ],
)
def test_a_value_that_does_not_fit_points_to_the_docstring(name: str, options: dict[str, object]) -> None:
    with pytest.raises(
        ConfigError, match=rf"'{name}' cannot be built with options .*The docstring of segmae\.models"
    ):
        create_model(name, **options)
