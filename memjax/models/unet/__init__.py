"""The U-Net, its layers and attention, and its label encoder."""
