"""A place that packs know from before spandrel."""
