"""Applications: deploying, supervising and stopping them, their messages, states and logs."""
