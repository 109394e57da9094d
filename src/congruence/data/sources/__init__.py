"""Named datasets and folders of images: `table` has the rows, `catalogue` those of other packages too.

Readers: `formats` (arrays), `trees` and `people` (image files), `folder` (any folder), each returning what `store`
defines. `load` reads what `locate` gives and (with `splitting`) splits; `fetch` and `packages` get what is packaged.
"""
