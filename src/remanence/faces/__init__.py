"""The public ways of remembering, each written once as coroutines over a gateway."""
