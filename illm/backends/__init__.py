"""The backends: what stands behind the actors' mailboxes, one package for each way of reaching a model."""
