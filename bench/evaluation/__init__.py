"""Scores of predictions: numbers from logits or probabilities and labels."""
