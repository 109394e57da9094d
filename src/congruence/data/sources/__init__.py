"""Named datasets and folders: the table, the readers of their layouts, and the fetching of packages."""
