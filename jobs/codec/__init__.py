"""What the codec verbs share: checkpoints of a codec's training, and figures by the judges."""
