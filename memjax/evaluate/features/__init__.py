"""Features of images: trained here, published, or CLIP's."""
