"""The image that components name until a platform profile names its own."""

IMAGE = "phasor.local/phasor:dev"
