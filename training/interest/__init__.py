"""Interest modules: what a user's life cycle says of a candidate. File name = name in the config.

A plug-in here has `Options`, `READS` (the part of the history it reads: `clusters` or `recents`) and
`build(options, *, item_width) -> nn.Module` with `out_width` and
`forward(target (B, D), part: HistoryPart, layout: RowLayout) -> (B, out_width)`. The module states its split
by `served()` or states none.
"""
