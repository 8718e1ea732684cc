"""Losses of face swapping."""

from hfembed.models.face_swap.modeling_face_swap import reconstruction_loss

__all__ = ["reconstruction_loss"]
