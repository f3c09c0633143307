"""Codec training: crops of audio, augmentation, quantizer updates, losses, the training step."""
