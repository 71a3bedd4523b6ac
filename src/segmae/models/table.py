"""The table of models: name -> function, paper, licence, size. Plain data; reading it imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Entry:
    """One row of the table."""

    name: str
    function: str  # "module:function", imported by `create_model`
    kind: str  # "segmentation", or "pretraining": an encoder with a decoder that rebuilds hidden patches
    paper: str
    year: int
    link: str
    parameters: int  # of the part that segments (or rebuilds), with default options
    # 2 x multiply-adds of convolutions and matrix products, one image of 224 x 224 (UM-MAE: 256; MedT resizes to 128).
    # Element-wise work is not counted: VM-UNet's scans would add about 2.3.
    gflops: float
    pretraining: str  # public weights to start from, with their licence where it forbids commercial use
    licence: str = "Apache-2.0"  # of the code for it
    origin: str = "ours"  # or the library that is wrapped


_SEGMAE: dict[str, Any] = dict(
    kind="segmentation", year=2025, link="https://www.ic-icc.cn/2025/index.php",
    paper="SegMAE: A Dual Decoder Framework with Patch Wise Constraint for Skin Lesion Segmentation (ICIC)",
)  # fmt: skip
_DINOV2: dict[str, Any] = dict(
    kind="segmentation", paper="DINOv2: Learning Robust Visual Features without Supervision (TMLR)", year=2024,
    link="https://arxiv.org/abs/2304.07193", pretraining="DINOv2 ViT-S/14, frozen",
)  # fmt: skip
_UM_MAE: dict[str, Any] = dict(
    kind="pretraining", year=2022, link="https://arxiv.org/abs/2205.10063", pretraining="none",
    paper="Uniform Masking: Enabling MAE Pre-training for Pyramid-based Vision Transformers with Locality",
)  # fmt: skip

TABLE: tuple[Entry, ...] = (
    Entry("segmae-base", "segmae.models.segmae:segmae_base", parameters=105_275_921, gflops=58.39,
          pretraining="ImageNet-21k R50+ViT-B/16 (timm, Google), MAE ViT-B (CC-BY-NC-4.0)", **_SEGMAE),
    Entry("segmae-small", "segmae.models.segmae:segmae_small", parameters=25_868_657, gflops=15.21,
          pretraining="DINOv2 ViT-S/14, any ViT-S (timm)", **_SEGMAE),
    Entry("segmae-tiny", "segmae.models.segmae:segmae_tiny", parameters=4_297_753, gflops=2.93,
          pretraining="ImageNet EfficientNet-Lite2", **_SEGMAE),
    Entry("unet", "segmae.models.unet:UNet", kind="segmentation", year=2015, link="https://arxiv.org/abs/1505.04597",
          paper="U-Net: Convolutional Networks for Biomedical Image Segmentation (MICCAI)",
          parameters=31_037_633, gflops=73.76, pretraining="none"),
    Entry("unetplusplus", "segmae.models.unetplusplus:UNetPlusPlus", kind="segmentation", year=2018,
          link="https://arxiv.org/abs/1807.10165", paper="UNet++: A Nested U-Net Architecture for Medical Image Segmentation (DLMIA)",
          parameters=9_163_329, gflops=52.81, pretraining="none"),
    Entry("attention-unet", "segmae.models.attention_unet:AttentionUNet", kind="segmentation", year=2018,
          link="https://arxiv.org/abs/1804.03999", paper="Attention U-Net: Learning Where to Look for the Pancreas (MIDL)",
          parameters=34_878_573, gflops=101.71, pretraining="none"),
    Entry("segformer-b2", "segmae.models.segformer:SegFormer", kind="segmentation", year=2021,
          link="https://arxiv.org/abs/2105.15203",
          paper="SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers (NeurIPS)",
          parameters=27_347_393, gflops=21.94, pretraining="ImageNet MiT-B2 (Hugging Face; research only)"),
    Entry("swin-unet", "segmae.models.swin_unet:SwinUNet", kind="segmentation", year=2022,
          link="https://arxiv.org/abs/2105.05537",
          paper="Swin-Unet: Unet-like Pure Transformer for Medical Image Segmentation (ECCV Workshops)",
          parameters=27_168_132, gflops=12.14, pretraining="ImageNet Swin-T (timm)"),
    Entry("transunet", "segmae.models.transunet:TransUNet", kind="segmentation", year=2021,
          link="https://arxiv.org/abs/2102.04306",
          paper="TransUNet: Transformers Make Strong Encoders for Medical Image Segmentation",
          parameters=105_275_921, gflops=58.39, pretraining="ImageNet-21k R50+ViT-B/16 (timm, Google)"),
    Entry("setr-pup", "segmae.models.setr:SETR", kind="segmentation", year=2021, link="https://arxiv.org/abs/2012.15840",
          paper="Rethinking Semantic Segmentation from a Sequence-to-Sequence Perspective with Transformers (CVPR)",
          parameters=307_433_729, gflops=143.46, pretraining="ImageNet-21k ViT-L/16 (timm)"),
    Entry("medt", "segmae.models.medt:MedT", kind="segmentation", year=2021, link="https://arxiv.org/abs/2102.10662",
          paper="Medical Transformer: Gated Axial-Attention for Medical Image Segmentation (MICCAI)",
          parameters=1_524_553, gflops=2.295, pretraining="none"),
    Entry("focusnet", "segmae.models.focusnet:FocusNet", kind="segmentation", year=2019,
          link="https://arxiv.org/abs/1902.03091",
          paper="FocusNet: An Attention-based Fully Convolutional Network for Medical Image Segmentation (ISBI)",
          parameters=19_063_933, gflops=107.24, pretraining="none"),
    Entry("doubleunet", "segmae.models.doubleunet:DoubleUNet", kind="segmentation", year=2020,
          link="https://arxiv.org/abs/2006.04868",
          paper="DoubleU-Net: A Deep Convolutional Neural Network for Medical Image Segmentation (CBMS)",
          parameters=29_288_886, gflops=82.21, pretraining="ImageNet VGG-19 (torchvision)"),
    Entry("dagan", "segmae.models.dagan:DAGAN", kind="segmentation", year=2020,
          link="https://doi.org/10.1016/j.media.2020.101716",
          paper="Skin lesion segmentation via generative adversarial networks with dual discriminators (Medical Image Analysis)",
          parameters=26_052_193, gflops=89.25, pretraining="none"),
    Entry("fat-net", "segmae.models.fat_net:FATNet", kind="segmentation", year=2022,
          link="https://doi.org/10.1016/j.media.2021.102327",
          paper="FAT-Net: Feature adaptive transformers for automated skin lesion segmentation (Medical Image Analysis)",
          parameters=28_754_017, gflops=45.85, pretraining="ImageNet ResNet-34 (torchvision), DeiT-tiny (timm)"),
    Entry("resganet-msaspp", "segmae.models.resganet:ResGANetASPP", kind="segmentation", year=2022,
          link="https://doi.org/10.1016/j.media.2021.102313",
          paper="ResGANet: Residual group attention network for medical image classification and segmentation (Medical Image Analysis)",
          parameters=33_172_273, gflops=22.78, pretraining="none"),
    Entry("cpfnet", "segmae.models.cpfnet:CPFNet", kind="segmentation", year=2020,
          link="https://doi.org/10.1109/TMI.2020.2983721",
          paper="CPFNet: Context Pyramid Fusion Network for Medical Image Segmentation (IEEE TMI)",
          parameters=30_650_724, gflops=12.70, pretraining="ImageNet ResNet-34 (torchvision)"),
    Entry("ckdnet", "segmae.models.ckdnet:CKDNet", kind="segmentation", year=2021,
          link="https://doi.org/10.1016/j.asoc.2020.106881",
          paper="Cascade knowledge diffusion network for skin lesion diagnosis and segmentation (Applied Soft Computing)",
          parameters=259_944_864, gflops=139.99, pretraining="ImageNet ResNet-101 (torchvision), three times"),
    Entry("dsnet", "segmae.models.dsnet:DSNet", kind="segmentation", year=2020, link="https://arxiv.org/abs/1907.04305",
          paper="DSNet: Automatic dermoscopic skin lesion segmentation (Computers in Biology and Medicine)",
          parameters=10_130_433, gflops=11.07, pretraining="ImageNet DenseNet-121 (torchvision)"),
    Entry("ifcn", "segmae.models.ifcn:IFCN", kind="segmentation", year=2020,
          link="https://pmc.ncbi.nlm.nih.gov/articles/PMC7649844/",
          paper="Skin Lesion Segmentation with Improved Convolutional Neural Network (Journal of Digital Imaging)",
          parameters=15_450_049, gflops=43.52, pretraining="ImageNet VGG-16-BN (torchvision)"),
    Entry("mb-dcnn", "segmae.models.mb_dcnn:MBDCNN", kind="segmentation", year=2020, link="https://arxiv.org/abs/1903.03313",
          paper="A Mutual Bootstrapping Model for Automated Skin Lesion Segmentation and Classification (IEEE TMI)",
          parameters=130_296_778, gflops=74.10, pretraining="ImageNet Xception (timm), three times"),
    Entry("nnunet", "segmae.models.nnunet:NNUNet", kind="segmentation", year=2021,
          link="https://doi.org/10.1038/s41592-020-01008-z",
          paper="nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation (Nature Methods)",
          parameters=20_617_697, gflops=21.82, pretraining="none"),
    Entry("ege-unet", "segmae.models.ege_unet:EGEUNet", kind="segmentation", year=2023,
          link="https://arxiv.org/abs/2307.08473",
          paper="EGE-UNet: an Efficient Group Enhanced UNet for Skin Lesion Segmentation (MICCAI)",
          parameters=53_374, gflops=0.11, pretraining="none"),
    Entry("vm-unet", "segmae.models.vm_unet:VMUNet", kind="segmentation", year=2024, link="https://arxiv.org/abs/2402.02491",
          paper="VM-UNet: Vision Mamba UNet for Medical Image Segmentation",
          parameters=27_427_561, gflops=8.10, pretraining="ImageNet VMamba-S"),
    Entry("dinov2-linear", "segmae.models.dinov2:dinov2_linear", parameters=22_057_345, gflops=12.25, **_DINOV2),
    Entry("dinov2-conv", "segmae.models.dinov2:dinov2_conv", parameters=22_591_201, gflops=12.78, **_DINOV2),
    Entry("mae-vit-base", "segmae.models.mae:mae_vit_base", kind="pretraining", year=2022,
          link="https://arxiv.org/abs/2111.06377", paper="Masked Autoencoders Are Scalable Vision Learners (CVPR)",
          parameters=111_907_840, gflops=19.56, pretraining="MAE ViT-B (CC-BY-NC-4.0), any ViT-B/16 (timm)"),
    Entry("um-mae-swin", "segmae.models.um_mae:um_mae_swin", parameters=35_777_034, gflops=6.78, **_UM_MAE),
    Entry("um-mae-pvt", "segmae.models.um_mae:um_mae_pvt", parameters=28_522_560, gflops=6.34, **_UM_MAE),
)  # fmt: skip
