"""Checkpoints of the reference implementation, of this pipeline, of timm and of MMSegmentation, one into another."""
