"""Programs that start many runs of `jaxtickets.main`."""
