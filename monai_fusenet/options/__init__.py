"""The options of the configs: one table, what their values may be, and their defaults; no torch is imported."""

from monai_fusenet.options.defaults import CONFIGS, shipped_configs
from monai_fusenet.options.kinds import Kind
from monai_fusenet.options.table import FIT_OPTIONS, GROUPS, OPTIONS, STUDENT_OPTIONS, WORKFLOWS, Option

__all__ = [
    "CONFIGS",
    "FIT_OPTIONS",
    "GROUPS",
    "OPTIONS",
    "STUDENT_OPTIONS",
    "WORKFLOWS",
    "Kind",
    "Option",
    "shipped_configs",
]
