"""Backbone: checkpoints, attention over token trees, adapters, scoring and generation."""
