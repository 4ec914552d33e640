"""Problem: what a tree is made of, what a batch is worth, and how a prediction is scored."""
