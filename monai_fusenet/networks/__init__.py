"""What describes: whole networks, and the blocks that they are made of."""

from monai_fusenet.networks.blocks.fusion import FusionBlock, MixFeedForward
from monai_fusenet.networks.blocks.pixel_encoder import ChannelAffine, PixelEncoder
from monai_fusenet.networks.blocks.projection import PatchTokens, ProjectionHead
from monai_fusenet.networks.nets.feature_clustering import ConvReLUNorm, FeatureClusteringNet, FeatureClusteringOutput
from monai_fusenet.networks.nets.fusenet import FuseNet, FuseNetOutput
from monai_fusenet.networks.slices import SlicewiseNetwork

__all__ = [
    "ChannelAffine",
    "ConvReLUNorm",
    "FeatureClusteringNet",
    "FeatureClusteringOutput",
    "FuseNet",
    "FuseNetOutput",
    "FusionBlock",
    "MixFeedForward",
    "PatchTokens",
    "PixelEncoder",
    "ProjectionHead",
    "SlicewiseNetwork",
]
