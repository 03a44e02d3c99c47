"""Reading of upstream checkpoints without PyTorch: archives, restricted pickles, and the model built from them."""
