"""Choices that depend on a name and a seed, and on nothing else: the same on every machine and in every task."""

import hashlib


def position(name: str, seed: int, purpose: str) -> float:
    """A place in [0, 1) for a name. Different purposes give independent places."""
    digest = hashlib.blake2b(f"{purpose}:{seed}:{name}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
