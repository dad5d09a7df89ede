"""What a page says: its text, links and pictures, and the words that go with them."""
