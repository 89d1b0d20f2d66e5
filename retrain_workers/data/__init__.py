"""What a model is trained on: snapshots of interactions, histories as of each event, splits, negatives, references."""
