"""What several rooms of detection/ need and no other package has: streamed JSON, stateless random numbers, categories,
numbers of the environment, what an error says of memory."""
