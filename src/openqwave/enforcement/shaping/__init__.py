"""UDP held to a rate by the queues of interfaces; see `shapers`, and docs/rates.md."""
