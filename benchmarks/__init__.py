"""Measurements of quality and of speed against what one would use instead. No part of what is installed."""
