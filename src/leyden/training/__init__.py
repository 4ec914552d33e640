"""Training: the LightningModule, optimizer, schedule, callbacks, and the one place that wires a run."""
