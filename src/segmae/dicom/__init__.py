"""DICOM in and out: dermoscopic and clinical photographs to frames, and their lesions to DICOM SEG objects.

    read     an object to frames, checked before anything large is decoded
    seg      masks or probabilities of its frames to one SEG object
    study    which files of a folder are photographs
    predict  files and study folders to results, as `segmae predict` does
    quiet    why no error, warning or log line quotes a patient

pydicom and highdicom come with the extra `dicom` and are imported on first use.
"""

from segmae.dicom.predict import DicomPredictions, predict_dicom
from segmae.dicom.read import DicomObject, Frame, open_object, read_frames
from segmae.dicom.seg import Algorithm, segment, write_segmentation
from segmae.dicom.study import Study, holds_dicom, walk

__all__ = [
    "Algorithm",
    "DicomObject",
    "DicomPredictions",
    "Frame",
    "Study",
    "holds_dicom",
    "open_object",
    "predict_dicom",
    "read_frames",
    "segment",
    "walk",
    "write_segmentation",
]
