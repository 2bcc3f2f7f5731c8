"""What the time of an attack is made of: operations and bytes on paper, and where the measured time goes."""
