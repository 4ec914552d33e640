"""Leyden beside its peers: the same rows, order, model, adapter, arithmetic, update rule and rate in each of them."""
