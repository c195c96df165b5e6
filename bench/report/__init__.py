"""Results for people: tables, Markdown, a page, a comparison of two files."""
