"""Public weights into any network of the table, or one of our own models into another. Nothing is loaded silently.

Every loader returns a `LoadReport` that the caller prints. Files are told apart by their content (weight_files.py)
names translated (weight_names.py), shapes adapted (weight_shapes.py). Weights stored in half precision become the network's own float32.

A network says in `public_weights` which of its submodules start from which public file: {path: file}. Tensors
there have the file's names, so that loading is equality of names and shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from segmae.errors import CheckpointError
from segmae.models.efficientnet import EfficientNetLite
from segmae.models.weight_files import Weights, read_weights
from segmae.models.weight_names import BACKBONE, RESNET, efficientnet_name, rename, shared_names
from segmae.models.weight_shapes import Target, fit_tensors, fit_vit

TRIFLE = 0.01  # of a start's values: less agrees by chance between any two networks, such as a head's bias


@dataclass(frozen=True)
class LoadReport:
    """What became of a file of weights. Tensors are named one by one; `str()` sums them up in a paragraph, with examples of the odd ones."""

    loaded: list[str]  # tensors of the network that got their values from the file
    left_out: list[str]  # tensors of the file without a place in the network; both shapes where these differ
    new: list[str]  # tensors of the part in question that the file does not hold: they stay as they were
    notes: list[str] = field(default_factory=list)  # what was changed on the way, such as a resized grid

    def __str__(self) -> str:
        parts = [f"{len(self.loaded)} tensors loaded"]
        parts.append(f"{len(self.left_out)} of the file left out{_examples(self.left_out)}")
        parts.append(f"{len(self.new)} new{_examples(self.new)}")
        return "; ".join(parts + self.notes) + "."


def load_encoder(model: nn.Module, path: str | Path) -> LoadReport:
    """Load a public file into every submodule in `public_weights` that it belongs to: half of its tensors must fit.

    Reads torchvision's `.pth`, timm's and Hugging Face's `.safetensors` or `.bin`. A plain ViT is treated as by
    `load_vit`; a first convolution with more inputs than RGB gets the mean of the file's three for the others.

    Raises:
        CheckpointError: the network has no such part, not a readable file of weights, or it belongs to none of them.
    """
    state = model.state_dict()
    places = _public_places(model, state)
    if not places:
        raise CheckpointError(
            f"{path}: {_name(model)} starts from no public weights. Leave `model.encoder` empty"
        )
    weights = shared_names(read_weights(path))
    fitting, misfits, filled, notes = _fill_places(state, places, weights)
    if not filled:
        wanted = "; ".join(f"`{place}` takes {public}" for place, public in places.items())
        raise CheckpointError(
            f"{path}: fills less than half of any encoder{_examples(misfits.values())}. In {_name(model)} {wanted}"
        )
    notes += [f"{place} is left to {public}" for place, public in places.items() if place not in filled]
    new = [name for names in filled.values() for name in names if name not in fitting]
    return _load(model, fitting, list(misfits.values()), new, notes)


def load_vit(model: nn.Module, path: str | Path) -> LoadReport:
    """Load a pretrained ViT into the network's own, with its CNN stage and MAE decoder where both have them.

    Reads timm's and DINOv2's names and Hugging Face's of an encoder (`.safetensors`, `.pth`; the decoder of its ViTMAE files
    is left out), MAE's `.pth` with or without its decoder, and Google's `.npz` (ViT and R50+ViT). The position table is
    interpolated to the network's grid (bicubic), without the class token's slot where the network has no class token; a
    patch kernel of another size is resized (`weight_shapes.resize_kernel`). LayerScale factors are folded into the weights
    when the network has none, and set to 1 when only the network has them: the blocks compute what they computed where
    they were trained.

    Raises:
        CheckpointError: the network has no plain ViT, not a readable file of weights, or nothing in it fits.
    """
    state = model.state_dict()
    place = _vit_place(state)
    if place is None:
        raise CheckpointError(
            f"{path}: {_name(model)} has no plain ViT to load into. {_instead(model, 'vit')}"
        )
    notes: list[str] = []
    weights, target = fit_vit(shared_names(read_weights(path)), state, place, notes)
    with_cnn = any(name.startswith(BACKBONE) for name in weights)

    def concerned(name: str) -> bool:
        part = name.startswith((f"{place}.", "mae_decoder."))
        return part and (with_cnn or not name.startswith("encoder.cnn."))

    return _fill(model, weights, target, concerned, path, notes)


def load_cnn(model: nn.Module, path: str | Path) -> LoadReport:
    """Load pretrained weights into the CNN stage of a hybrid encoder (SegMAE, TransUNet).

    For an EfficientNet-Lite stage: a checkpoint with names like `_conv_stem` and `_blocks.N._expand_conv`.
    For a ResNet stage: the R50 of timm's hybrids or of Google's `R50+ViT` `.npz`.

    Raises:
        CheckpointError: the network has no CNN stage, not a readable file of weights, or nothing in it fits.
    """
    stage = getattr(getattr(model, "encoder", None), "cnn", None)
    if stage is None or "encoder.position" not in model.state_dict():
        raise CheckpointError(
            f"{path}: {_name(model)} has no CNN stage to load into. {_instead(model, 'cnn')}"
        )
    weights = shared_names(read_weights(path))
    if isinstance(stage, EfficientNetLite):
        return _fill(model, weights, efficientnet_name, _of_cnn, path, [])
    weights = {name.removeprefix(BACKBONE): value for name, value in weights.items()}
    if "stem.conv.weight" in weights and "stem.norm.weight" not in weights:
        raise CheckpointError(
            f"{path}: a ResNet that normalises before its convolutions (BiT), not after them as here. "
            "Take the R50 of an R50+ViT file, such as timm's vit_base_r50_s16_224"
        )
    return _fill(model, weights, lambda name: rename(name, RESNET), _of_cnn, path, [])


def load_start(model: nn.Module, folder: str | Path) -> LoadReport:
    """Load one of our own models, for example stage 1's result into stage 2, or a pretraining network into a baseline.

    What agrees in name and shape is taken as it is. Beyond that the start's `encoder` is treated as a public file
    is: a ViT into any ViT, with position grid and patch kernel resized, a Swin into a Swin.

    Args:
        model: the network to fill.
        folder: a model folder, or its `model.safetensors`.

    Raises:
        CheckpointError: no such model, not readable, or nothing in it fits, or hardly anything (`TRIFLE`).
    """
    weights, state = read_weights(folder), model.state_dict()
    same = {
        name: value for name, value in weights.items() if name in state and value.shape == state[name].shape
    }
    left_out, notes = [name for name in weights if name not in same], list[str]()
    encoder = {name: value for name, value in weights.items() if name.startswith("encoder.")}
    fitting: Weights = {}
    if encoder.keys() - same.keys():
        fitting, misfits, filled, notes = _fill_places(
            state, _public_places(model, state), shared_names(encoder)
        )
        if filled:
            left_out = [name for name in left_out if name not in encoder]
            left_out += [text for name, text in misfits.items() if f"encoder.{name}" not in same]
    fitting |= same
    if _values(fitting) < TRIFLE * _values(weights) or not fitting:
        raise CheckpointError(_nothing_fits(folder, weights, left_out, len(fitting)))
    return _load(model, fitting, left_out, [name for name in state if name not in fitting], notes)


def _public_places(model: nn.Module, state: Weights) -> dict[str, str]:
    """Submodules that the network declares and was built with, and the public file of each."""
    declared = dict(getattr(model, "public_weights", {}))
    if "encoder.position" in state:  # of SegMAE's family
        declared = {"encoder": "a plain ViT (and `model.cnn` is for the CNN stage)"}
    return {
        place: public
        for place, public in declared.items()
        if any(name.startswith(f"{place}.") for name in state)
    }


def _vit_place(state: Weights) -> str | None:
    """Where a network has a plain ViT: blocks and patch embedding beside a position table."""
    for name in state:
        place, found, _ = name.partition(".blocks.0.attn.qkv.weight")
        if found and (f"{place}.position" in state or f"{place}.patch_embed.proj.weight" in state):
            return place
    return None


def _fill_places(
    state: Weights, places: dict[str, str], weights: Weights
) -> tuple[Weights, dict[str, str], dict[str, list[str]], list[str]]:
    """Match a file with each place in turn; a place of which less than half would be filled stays as it is.

    Returns:
        What fits, by its name in the network; what fits nowhere, by its name in the file, as text; the tensors of each
        place that was filled; what was changed on the way.
    """
    fitting, used, filled, notes = Weights(), set[str](), dict[str, list[str]](), list[str]()
    misfits = {name: name for name in weights}
    for place in places:
        changed: list[str] = []
        if place == _vit_place(state):
            adapted, target = fit_vit(weights, state, place, changed)
        else:
            adapted, target = fit_tensors(weights, state, place, changed), f"{place}.{{}}".format
        found, wrong = _match(state, adapted, target)
        mine = [name for name in state if name.startswith(f"{place}.") and _is_weight(name)]
        if "encoder.position" in state:
            mine = [name for name in mine if not _of_cnn(name)]
        misfits |= wrong
        if 2 * sum(name in found for name in mine) >= len(mine):
            fitting |= found
            used |= adapted.keys() - wrong.keys()
            filled[place] = mine
            notes += changed
    return fitting, {name: text for name, text in misfits.items() if name not in used}, filled, notes


def _fill(
    model: nn.Module, weights: Weights, target: Target, concerned: Callable[[str], bool], path: str | Path, notes: list[str]
) -> LoadReport:  # fmt: skip
    """Copy what fits, all or nothing; `concerned` says which tensors of the network are worth calling new."""
    state = model.state_dict()
    fitting, misfits = _match(state, weights, target)
    if not fitting:
        raise CheckpointError(_nothing_fits(path, weights, misfits.values()))
    return _load(
        model,
        fitting,
        list(misfits.values()),
        [name for name in state if name not in fitting and concerned(name)],
        notes,
    )


def _match(state: Weights, weights: Weights, target: Target) -> tuple[Weights, dict[str, str]]:
    """What has a place of its shape, by its place, and what has not, by its name, as text."""
    fitting, misfits = Weights(), dict[str, str]()
    for name, value in weights.items():
        place = target(name)
        if place is None or place not in state:
            misfits[name] = name
        elif value.shape != state[place].shape:
            misfits[name] = f"{name} ({_shape(value)} in the file, {_shape(state[place])} in the network)"
        else:
            fitting[place] = value
    return fitting, misfits


def _load(
    model: nn.Module, fitting: Weights, left_out: list[str], new: list[str], notes: list[str]
) -> LoadReport:
    model.load_state_dict(fitting, strict=False)
    return LoadReport(list(fitting), left_out, [name for name in new if _is_weight(name)], notes)


def _is_weight(name: str) -> bool:
    return not name.endswith("num_batches_tracked")  # a count, which files from before torch 0.4.1 lack


def _values(weights: Weights) -> int:
    return sum(value.numel() for value in weights.values())


def _of_cnn(name: str) -> bool:
    return name.startswith("encoder.cnn.")


def _nothing_fits(path: str | Path, weights: Weights, left_out: Iterable[str], fitting: int = 0) -> str:
    some = f"only {fitting} small ones of its {len(weights)} tensors fit"
    found = some if fitting else f"none of its {len(weights)} tensors fits"
    reason = f"{found} this network{_examples(left_out)}"
    return f"{path}: {reason}. Check that file and `model.name` belong together"


def _instead(model: nn.Module, key: str) -> str:
    public = getattr(model, "public_weights", {})
    wanted = ", ".join(f"{file} for `{place}`" for place, file in public.items())
    return f"Leave `model.{key}` empty" + (f"; `model.encoder` takes {wanted}" if public else "")


def _name(model: nn.Module) -> str:
    return type(model).__name__


def _shape(value: Tensor) -> str:
    return "x".join(map(str, value.shape)) or "a scalar"


def _examples(names: Iterable[str], count: int = 3) -> str:
    names = list(names)
    if not names:
        return ""
    return f" ({', '.join(names[:count])}{', ...' if len(names) > count else ''})"
