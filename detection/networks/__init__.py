"""The two networks: the RPN, the Fast R-CNN with its box heads, and both combined as one detector."""
