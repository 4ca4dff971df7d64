"""What a fine-tuned checkpoint says of images: classes with probabilities, or a class for every pixel."""
