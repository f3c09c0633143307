"""What a codec is trained with: crops of audio, the quantizer's updates, losses."""
