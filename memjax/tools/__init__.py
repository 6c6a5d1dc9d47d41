"""Tools: bench measures, fit compiles for machines that are not there, launch starts elsewhere."""
