"""Features of pictures: trained here, published, or CLIP's."""
