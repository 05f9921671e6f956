"""What a server will meet: prediction, and what may be put into its environment."""
