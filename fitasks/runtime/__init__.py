"""What a server will meet: prediction and verification."""
