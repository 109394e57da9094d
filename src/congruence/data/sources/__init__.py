"""Named datasets and folders of images: `table` has the rows, `catalogue` adds those of other packages.

Readers: `formats` (arrays), `trees` and `people` (image files), `folder` (any folder); each returns a type of `store`.
`load` reads what `locate` finds and (with `splitting`) splits it; `fetch` and `packages` download packaged datasets.
"""
