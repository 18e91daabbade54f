"""Interest modules: what a user's life cycle says of a candidate. File name = name in the config.

A plug-in here has `Options`, `READS` (the part of the history it reads: `clusters`, `recents` or
`behaviors`; where that is an option, `reads(options)` instead) and `build(options, *, item: ItemLayout) ->
nn.Module` with `out_width` and `forward(target (B, D), part: HistoryPart, layout: RowLayout) -> (B, out_width)`.
The module states its split by `served()` or states none. With a loss of its own it has
`auxiliary_loss(batch) -> Tensor`, weighted, which is asked for right after a training forward.
"""
