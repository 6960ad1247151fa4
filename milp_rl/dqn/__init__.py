"""Deep Q-learning with exact argmax (SEQUOIA)."""
