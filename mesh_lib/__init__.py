"""What is true: tensors in, tensors out. No ray, no command line, no environment, no clock."""
