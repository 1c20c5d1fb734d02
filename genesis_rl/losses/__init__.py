"""What is minimised: the error of a masked mixture, and the multiplier GECO."""
