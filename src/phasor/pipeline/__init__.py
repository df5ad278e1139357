"""The recipe as a Kubeflow pipeline: what each component is told, compiling for a platform, submitting and following a run."""
