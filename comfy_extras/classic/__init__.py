"""The nodes that every workflow begins with; their public names are in `nodes`."""
