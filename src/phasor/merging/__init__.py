"""Task vectors and the ways to merge them: tensors in, coefficients and weights out."""
