"""The page of `hfembed demo` as a Space: which models it shows is said by the Space's variables."""

import os

from hfembed.demo.page import serve

serve(
    os.environ["HFEMBED_MODELS"].split(),
    os.environ.get("HFEMBED_GALLERY"),
    host="0.0.0.0",  # a Space lets its visitors in itself
    port=7860,
)
