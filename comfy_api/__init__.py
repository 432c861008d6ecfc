"""What custom nodes are written against; every version of it stays."""
