"""Running of graphs: what a prompt means, what runs when, what is kept."""
