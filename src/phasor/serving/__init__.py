"""`phasor serve`: a gateway with the OpenAI and Cohere protocols around an engine and, if given, an index."""
