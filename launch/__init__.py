"""Starting many runs of `jaxtickets.main`."""
