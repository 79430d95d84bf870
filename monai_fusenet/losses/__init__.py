"""Losses: pure functions of scores and tokens, and a module with name and weight for each."""

from monai_fusenet.losses.cross_modal import CrossModalLoss, CrossModalSimilarity, cross_modal_similarity
from monai_fusenet.losses.edge_refinement import EdgeRefinementLoss, edge_disagreement, published_edge_map
from monai_fusenet.losses.feature_clustering import FeatureClusteringLoss, FeatureClusteringTerms
from monai_fusenet.losses.fusenet import FuseNetLoss, FuseNetTerms
from monai_fusenet.losses.inter_scale import InterScaleConsistencyLoss, inter_scale_disagreement
from monai_fusenet.losses.intra_scale import IntraScaleConsistencyLoss, patch_confusion
from monai_fusenet.losses.msformer import MSFormerLoss, MSFormerTerms
from monai_fusenet.losses.noisy_mask import (
    NoisyMaskLoss,
    NoisyMaskTerms,
    generalised_cross_entropy,
    soft_dice_distance,
)
from monai_fusenet.losses.s3net import S3NetLoss, S3NetTerms
from monai_fusenet.losses.scribble import ScribbleLoss, scribble_loss
from monai_fusenet.losses.self_labeling import SelfLabelingLoss, self_labeling_loss
from monai_fusenet.losses.spatial_continuity import (
    SpatialContinuityLoss,
    grey_values,
    published_continuity,
    spatial_continuity,
)
from monai_fusenet.losses.transform_consistency import (
    TransformConsistencyLoss,
    equivariance,
    label_cross_entropy,
    published_consistency,
)
from monai_fusenet.losses.with_scribbles import WithScribbles

__all__ = [
    "CrossModalLoss",
    "CrossModalSimilarity",
    "EdgeRefinementLoss",
    "FeatureClusteringLoss",
    "FeatureClusteringTerms",
    "FuseNetLoss",
    "FuseNetTerms",
    "InterScaleConsistencyLoss",
    "IntraScaleConsistencyLoss",
    "MSFormerLoss",
    "MSFormerTerms",
    "NoisyMaskLoss",
    "NoisyMaskTerms",
    "S3NetLoss",
    "S3NetTerms",
    "ScribbleLoss",
    "SelfLabelingLoss",
    "SpatialContinuityLoss",
    "TransformConsistencyLoss",
    "WithScribbles",
    "cross_modal_similarity",
    "edge_disagreement",
    "equivariance",
    "generalised_cross_entropy",
    "grey_values",
    "inter_scale_disagreement",
    "label_cross_entropy",
    "patch_confusion",
    "published_consistency",
    "published_continuity",
    "published_edge_map",
    "scribble_loss",
    "self_labeling_loss",
    "soft_dice_distance",
    "spatial_continuity",
]
