"""Trained weights looked at: embeddings, neighbours, histories."""
