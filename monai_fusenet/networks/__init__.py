"""Networks, and the blocks that they are made of."""

from monai_fusenet.networks.blocks.attention import efficient_attention
from monai_fusenet.networks.blocks.deformable import DeformableConv, deform_conv
from monai_fusenet.networks.blocks.efficient_transformer import EfficientTransformerBlock
from monai_fusenet.networks.blocks.expanding import PatchExpanding
from monai_fusenet.networks.blocks.fusion import FusionBlock, MixFeedForward
from monai_fusenet.networks.blocks.large_kernel import InceptionLargeKernelAttention
from monai_fusenet.networks.blocks.pixel_encoder import ChannelAffine, PixelEncoder
from monai_fusenet.networks.blocks.pixel_norm import PixelNorm
from monai_fusenet.networks.blocks.projection import PatchTokens, ProjectionHead, ShiftedPatchAttention
from monai_fusenet.networks.nets.feature_clustering import ConvReLUNorm, FeatureClusteringNet, FeatureClusteringOutput
from monai_fusenet.networks.nets.fusenet import FuseNet, FuseNetOutput
from monai_fusenet.networks.nets.msformer import MSFormer, MSFormerOutput
from monai_fusenet.networks.nets.s3net import S3Net, S3NetOutput
from monai_fusenet.networks.slices import SlicewiseNetwork, by_slices

__all__ = [
    "ChannelAffine",
    "ConvReLUNorm",
    "DeformableConv",
    "EfficientTransformerBlock",
    "FeatureClusteringNet",
    "FeatureClusteringOutput",
    "FuseNet",
    "FuseNetOutput",
    "FusionBlock",
    "InceptionLargeKernelAttention",
    "MSFormer",
    "MSFormerOutput",
    "MixFeedForward",
    "PatchExpanding",
    "PatchTokens",
    "PixelEncoder",
    "PixelNorm",
    "ProjectionHead",
    "S3Net",
    "S3NetOutput",
    "ShiftedPatchAttention",
    "SlicewiseNetwork",
    "by_slices",
    "deform_conv",
    "efficient_attention",
]
