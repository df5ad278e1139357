"""Typed settings, one module per group of phases. The whole is assembled in `phasor.recipe`."""
