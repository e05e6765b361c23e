"""The two networks: the RPN, the Fast R-CNN with its box heads, and the pair of them as one detector."""
