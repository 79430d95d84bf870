"""What the bundle's configs call."""

from monai_fusenet.bundle.workflows import *  # noqa: F403
from monai_fusenet.bundle.workflows import STUDENT_OPTIONS, Interrupted, close_progress_bars, student_config  # noqa: F401
