"""Questions one asks of word vectors: neighbours, analogies, odd ones out, vectors of documents."""


class WordVectorQueries:
    """The questions, for a class that has `embeddings` and `vocabulary`."""
