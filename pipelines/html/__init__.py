"""HTML pages: links, images, captions."""
