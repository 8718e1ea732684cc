"""Training word2vec: kernels, the engine around them, and what a recipe says."""
