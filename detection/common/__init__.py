"""What several rooms of detection/ need and no other package has: streamed JSON and stateless random numbers."""
