"""`doit doctor`: what is installed, side by side, with a verdict and a remedy each; and one trial compile."""
