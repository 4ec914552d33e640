"""Data: tables become conversations, conversations become token trees, trees become batches."""
