"""What agents lived, learned and can do: the face, its records, finding them again, and what is told to a model."""
