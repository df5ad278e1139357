"""Retraining from Git: a request in a deployment repository, a Job that runs it once, a commit that proposes what came out."""
