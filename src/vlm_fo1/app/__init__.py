"""The page: VLM-FO1 in a browser, on this machine alone (extra ``app``)."""
