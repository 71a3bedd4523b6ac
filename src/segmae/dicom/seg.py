"""The lesions of an object's frames as one DICOM SEG object that refers to patient, study and frames."""

from __future__ import annotations

import hashlib
import io
import uuid
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segmae.dicom.quiet import guarded, quiet
from segmae.dicom.read import (
    DicomObject,
    open_object,
    patient_orientation_of,
    pixel_aspect_of,
    pixel_size,
    whole_number,
)
from segmae.errors import OutputError, require
from segmae.files import atomic_write
from segmae.predictor import Predictor

SERIES_NUMBER = 7001  # of the new series: beyond what a camera counts to


@dataclass(frozen=True)
class Algorithm:
    """What a SEG object says of how it was made.

    Attributes:
        name: of the model's architecture.
        digest: SHA-256 of weights and settings, shortened.
        threshold: probability above which a pixel is lesion.
    """

    name: str
    digest: str
    threshold: float


def segment(
    source: str | Path,
    out: str | Path,
    predictor: Predictor,
    *,
    fractional: bool = False,
    created: datetime | None = None,
) -> Path:
    """Segment every frame of a DICOM photograph and write one DICOM SEG object. The source is only read.

    Args:
        source: a Dermoscopic Photography or VL Photographic object.
        out: file to write.
        predictor: see `segmae.load`.
        fractional: store probabilities (255 is 1) instead of the mask.
        created: date and time of the new object; default now. All else is the same for the same input, UIDs included.

    Returns:
        The file written.

    Raises:
        ImageError: the source cannot be used.
        OutputError: `out` cannot be written, or is the source.
        MissingExtra: pydicom or highdicom is not installed.
    """
    opened = open_object(source)
    found = []
    for number in range(1, opened.count + 1):
        result = predictor(opened.frame(number)[0])
        found.append(as_stored(result.probability) if fractional else result.mask)
    return write_segmentation(opened, np.stack(found), out, algorithm_of(predictor), created)


def as_stored(probability: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Probabilities in [0, 1] as a fractional SEG stores them: uint8, 255 is 1."""
    return np.rint(probability * np.float32(255)).astype(np.uint8)


def write_segmentation(
    source: DicomObject,
    frames: NDArray[Any],
    out: str | Path,
    algorithm: Algorithm,
    created: datetime | None = None,
) -> Path:
    """Write the lesion in each frame of a source as a DICOM SEG object.

    Args:
        source: whose patient, study and frames are referred to.
        frames: `[F,H,W]`, one for each frame of the source: bool for a binary object, uint8 (255 is probability 1)
            for a fractional one.
        out: file to write.
        algorithm: what made it.
        created: see `segment`.

    Raises:
        ImageError: the source's entries cannot be carried over.
        OutputError: `out` cannot be written, or is the source.
    """
    out = Path(out)
    if out.exists() and out.samefile(source.path):
        raise OutputError(f"{out}: is the source, which is never written to. Choose another name")
    atomic_write(out, segmentation_bytes(source, frames, algorithm, created))
    return out


def segmentation_bytes(
    source: DicomObject, frames: NDArray[Any], algorithm: Algorithm, created: datetime | None = None
) -> bytes:
    """What `write_segmentation` writes, as bytes."""
    if frames.shape != (source.count, source.height, source.width) or frames.dtype not in (bool, np.uint8):
        raise ValueError(f"frames {frames.shape} {frames.dtype} do not belong to {source}")
    with quiet():
        require("highdicom", "dicom")
    when = created or datetime.now()

    def build() -> bytes:
        buffer = io.BytesIO()
        _built(source, frames, algorithm, when).save_as(buffer, enforce_file_format=True)
        return buffer.getvalue()

    return guarded(
        source.path, build, "its patient or study entries cannot be carried over", "Export it again"
    )


def algorithm_of(predictor: Predictor) -> Algorithm:
    return Algorithm(predictor.info.architecture, predictor.digest, predictor.info.threshold)


def _built(source: DicomObject, frames: NDArray[Any], algorithm: Algorithm, created: datetime) -> Any:
    import highdicom as hd
    from pydicom.sr.codedict import codes

    from segmae import __version__

    dataset, fractional = source.dataset, frames.dtype == np.uint8
    kind = "FRACTIONAL" if fractional else "BINARY"
    made_by = (str(dataset.SOPInstanceUID), algorithm.name, algorithm.digest, f"{algorithm.threshold}", kind)
    content = hashlib.sha256(np.ascontiguousarray(frames).tobytes()).hexdigest()
    identification = hd.AlgorithmIdentificationSequence(
        name=f"segmae {algorithm.name}",
        family=codes.cid7162.ArtificialIntelligence,
        version=__version__,
        parameters={
            "model": algorithm.name,
            "sha256": algorithm.digest or "unknown",
            "threshold": f"{algorithm.threshold:g}",
        },
    )
    lesion = hd.seg.SegmentDescription(
        segment_number=1,
        segment_label="Lesion",
        segmented_property_category=codes.cid7150.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.cid7159.Lesion,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=identification,
        anatomic_regions=[_region(dataset)],
    )
    first = frames[0].astype(np.float32) / 255 if fractional else frames[0].astype(np.uint8)
    seg = hd.seg.Segmentation(
        source_images=[_reference(source)],
        pixel_array=first,
        segmentation_type=kind,
        segment_descriptions=[lesion],
        series_instance_uid=_derived_uid("series", str(dataset.SeriesInstanceUID), *made_by[1:]),
        series_number=SERIES_NUMBER,
        sop_instance_uid=_derived_uid("object", *made_by, content),
        instance_number=max(1, whole_number(dataset, "InstanceNumber")),
        manufacturer="segmae",
        manufacturer_model_name=algorithm.name,
        software_versions=__version__,
        device_serial_number=algorithm.digest or "unknown",
        content_label="LESION",
        content_description="Skin lesion, segmented automatically",
        series_description=f"Lesion segmentation by segmae ({kind.lower()})",
        max_fractional_value=255,
        omit_empty_frames=False,
    )
    # As the source has them, also where an old system wrote values that highdicom would refuse
    if "SpecificCharacterSet" in dataset:
        seg.SpecificCharacterSet = dataset.SpecificCharacterSet
    seg.copy_patient_and_study_information(_readable(dataset))
    seg.PatientOrientation = list(patient_orientation_of(dataset))
    if pixel_aspect_of(dataset) != 1 and not any(pixel_size(dataset, i) for i in range(source.count)):
        seg.add(dataset["PixelAspectRatio"])  # type 1C of the Image Pixel module: where no spacing says it
    seg.InstanceCreationDate = seg.ContentDate = created.strftime("%Y%m%d")
    seg.InstanceCreationTime = seg.ContentTime = created.strftime("%H%M%S.%f")
    for equipment in seg.get("ContributingEquipmentSequence", ()):
        equipment.ContributionDateTime = created.strftime("%Y%m%d%H%M%S.%f")
    organization = _derived_uid("dimensions", *made_by)
    for item in (*seg.DimensionOrganizationSequence, *seg.DimensionIndexSequence):
        item.DimensionOrganizationUID = organization
    if source.count > 1:
        _repeat(seg, frames, organization)
    return seg


def _reference(source: DicomObject) -> Any:
    """What highdicom asks of a source, of one frame, without the entries that it would refuse if they are malformed."""
    from pydicom.dataset import Dataset

    dataset, reference = source.dataset, Dataset()
    for keyword in (
        "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID",
        "PositionReferenceIndicator", "LossyImageCompression", "LossyImageCompressionRatio",
        "LossyImageCompressionMethod",
    ):  # fmt: skip
        if dataset.get(keyword):
            reference.add(dataset[keyword])
    for keyword in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID",
                    "ReferringPhysicianName"):  # fmt: skip
        setattr(reference, keyword, "")
    reference.StudyDate = reference.StudyTime = None
    reference.Modality = str(dataset.get("Modality") or "XC")
    reference.Rows, reference.Columns = source.height, source.width
    spacings = {pixel_size(dataset, index) for index in range(source.count)}
    if len(spacings) == 1 and (spacing := spacings.pop()):
        reference.PixelSpacing = [spacing[1], spacing[0]]
        reference.SliceThickness = min(spacing)  # nominal: highdicom reads no spacing without a thickness
    return reference


def _readable(dataset: Any) -> Any:
    """The header's entries that have a value of their kind; a malformed weight or age is not carried over."""
    from pydicom.dataset import Dataset

    found = Dataset()
    for tag in sorted(dataset.keys()):
        if tag.group > 0x0040:  # behind patient and study
            break
        try:
            found.add(dataset[tag])
        except Exception:
            continue
    return found


def _region(dataset: Any) -> Any:
    """The part of the body as the source codes it, else skin."""
    from highdicom.sr import CodedConcept
    from pydicom.sr.codedict import codes

    try:
        return CodedConcept.from_dataset(dataset.AnatomicRegionSequence[0])
    except Exception:  # absent or malformed
        return codes.SCT.Skin


def _repeat(seg: Any, frames: NDArray[Any], organization: str) -> None:
    """Make the object of a source's first frame one of all its frames, each with a reference to its own.

    highdicom itself does this only for sources with a frame of reference, which photographs do not have.
    """
    from pydicom.dataset import Dataset
    from pydicom.pixels.utils import pack_bits
    from pydicom.sequence import Sequence as Items
    from pydicom.tag import Tag

    dimension = Dataset()
    dimension.DimensionOrganizationUID = organization
    dimension.DimensionIndexPointer = Tag("InStackPositionNumber")
    dimension.FunctionalGroupPointer = Tag("FrameContentSequence")
    dimension.DimensionDescriptionLabel = "In-Stack Position Number"
    seg.DimensionIndexSequence = Items([*seg.DimensionIndexSequence, dimension])
    one = seg.PerFrameFunctionalGroupsSequence[0]
    groups = []
    for number in range(1, len(frames) + 1):
        group = deepcopy(one)
        for derivation in group.DerivationImageSequence:
            for image in derivation.SourceImageSequence:
                image.ReferencedFrameNumber = number
        content = group.FrameContentSequence[0]
        content.StackID, content.InStackPositionNumber = "1", number
        content.DimensionIndexValues = [1, number]
        groups.append(group)
    seg.PerFrameFunctionalGroupsSequence = Items(groups)
    seg.NumberOfFrames = len(frames)
    data = frames.tobytes() if frames.dtype == np.uint8 else pack_bits(frames.reshape(-1), pad=False)
    seg.PixelData = data + b"\0" * (len(data) % 2)


def _derived_uid(*parts: str) -> str:
    """A UID that the same parts always give (2.25: a UUID as a number)."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, chr(10).join(('segmae', *parts))).int}"
