"""What trained weights and logged runs show, as numbers: embeddings, neighbors, histories."""
