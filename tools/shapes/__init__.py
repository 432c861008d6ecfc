"""A small world of coloured shapes: what is drawn, how it is said, how a picture is read."""
