"""Artifacts: everything a run leaves behind: folder, manifest, metrics, predictions, exported model."""
