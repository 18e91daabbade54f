"""Backbones: how the sides of a row become logits. File name = name in the config.

A plug-in here has `Options` and `build(options, *, widths: BackboneWidths) -> nn.Module` with
`forward(user (B, dU), item (B, dI), candidate (B, dP), interest (B, dS), domain (B,)) -> (B, T, columns)`.
The module states its split by `served()` or states none.
"""
