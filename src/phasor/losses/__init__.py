"""One loss per file, pure tensor functions; GradCache, which makes any of them fit into memory."""
