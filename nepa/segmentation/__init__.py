"""Segmentation by MMSegmentation, which can be imported once this has been."""

import warnings

from nepa.segmentation.mmcv_operators import provide_operators

provide_operators()
# Advice to callers inside MMSegmentation itself; its recipes for ADE20K run with the same settings.
warnings.filterwarnings("ignore", category=UserWarning, module=r"mmseg\.|mmengine\.structures")
